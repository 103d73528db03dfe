# Rendered by haas boot for {{ node }}: the steps of every installer, in small.

# The disk: all that was on it goes.
dd if=/dev/zero of=/dev/vda bs=1M count=1

# The system: a boot sector that writes a line to the serial console, and halts.
printf '\372\374\061\300\216\330\276\040\174\254\204\300\164\006\272\370\003\356\353\365\364\353\375' > /sector
printf '%s\r\n' '{{ node }} runs from its disk.' | dd of=/sector bs=1 seek=32 conv=notrunc
printf '\125\252' | dd of=/sector bs=1 seek=510 conv=notrunc
dd if=/sector of=/dev/vda
sync

# The report; from now on the node is told to boot from its disk.
wget -q -O - --post-data '' '{{ done_url }}'
echo '{{ node }} is installed.'
reboot -f
