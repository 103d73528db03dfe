#!/bin/sh
# Build an installer that is small enough for the rack: Debian's kernel for virtual machines, busybox, and an init that
# fetches install.sh from `haas boot` and runs it.
#   examples/rack/installer.sh <folder>        writes vmlinuz and initrd.img there
set -eu
out=${1:?a folder}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/initrd/bin" "$work/initrd/modules"

# The kernel: the installed one, if it is of that kind, else from Debian's package.
kernel=$(find /boot -name 'vmlinuz-*-cloud-amd64' 2> /dev/null | sort -V | tail -n 1)
if [ -z "$kernel" ]; then
  fetch() {
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
    [ -n "$package" ] && (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package")
  }
  # Where the lists of packages are missing or old, they are fetched first.
  fetch 2> /dev/null || { apt-get -qq update && fetch; }
  dpkg-deb -x "$work"/linux-image-*.deb "$work/kernel"
  kernel=$(echo "$work"/kernel/boot/vmlinuz-*)
fi
version=${kernel##*/vmlinuz-}
modules=${kernel%/boot/*}/lib/modules/$version/kernel
cp "$kernel" "$out/vmlinuz"

# In this order, as each needs those before it.
for module in virtio/virtio_ring virtio/virtio virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev virtio/virtio_pci \
  net/net_failover net/virtio_net block/virtio_blk; do
  [ "$module" != net/net_failover ] || cp "$modules/net/core/failover.ko" "$work/initrd/modules"
  cp "$modules/drivers/$module.ko" "$work/initrd/modules"
done
cp /usr/bin/busybox "$work/initrd/bin/busybox"
cat > "$work/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net virtio_blk; do
  insmod "/modules/$module.ko"
done
ip link set eth0 up
cat > /lease <<'LEASE'
#!/bin/sh
[ "$1" != bound ] || ip addr add "$ip/$mask" dev "$interface"
LEASE
chmod +x /lease
files=$(sed -n 's/.*haas\.files=\([^ ]*\).*/\1/p' /proc/cmdline)
udhcpc -i eth0 -n -q -t 20 -T 1 -s /lease && wget -q -O /install.sh "$files/install.sh" && sh -eu /install.sh
echo "The installer has failed."
while true; do sleep 1000; done
INIT
chmod +x "$work/initrd/init"
(cd "$work/initrd" && find . | busybox cpio -o -H newc 2> /dev/null | gzip) > "$out/initrd.img"
