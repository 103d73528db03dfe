#!/bin/sh
# What a BMC of the rack does to its machine, as ipmi_sim asks for it: chassis.sh <folder of the node> get|set <what> [value]
node=$1
shift
. "$node/machine"
# One that has ended may wait for its parent to notice; that is off.
on() { grep -s '^State:' "/proc/$(cat "$node/qemu.pid" 2> /dev/null)/status" | grep -qv 'Z (zombie)'; }
start() {
  on && return
  # From the network once when the BMC was told so, else from the disk.
  order=c
  [ "$(cat "$node/boot" 2> /dev/null)" != pxe ] || order=nc
  rm -f "$node/boot"
  # No checksums are left to the card: the switch, which is a program, would pass them on unfinished.
  qemu-system-x86_64 -accel tcg -m "$MEMORY" -display none -vga none -monitor none -boot "order=$order" \
    -serial "file:$node/console.log" -daemonize -pidfile "$node/qemu.pid" \
    -drive "file=$node/disk.img,if=virtio,format=raw,cache=unsafe" \
    -netdev "tap,id=nic,ifname=$PORT,script=no,downscript=no" -device "virtio-net-pci,netdev=nic,mac=$MAC,csum=off" \
    > "$node/qemu.log" 2>&1 < /dev/null
}
stop() {
  on || return
  kill -9 "$(cat "$node/qemu.pid")"
  while on; do sleep 0.05; done
}
case "$1 $2" in
  "get power") if on; then echo power:1; else echo power:0; fi ;;
  "set power") if [ "$3" = 1 ]; then start; else stop; fi ;;
  "set reset") if on; then stop; start; fi ;;
  "set shutdown") stop ;;
  "get boot") echo "boot:$(cat "$node/boot" 2> /dev/null || echo none)" ;;
  "set boot") echo "$3" > "$node/boot" ;;
esac
exit 0
