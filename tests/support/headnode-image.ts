import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { LibvirtLab } from "./libvirt-lab.ts";

/** Who gets which address from the headnode's DHCP server, by MAC. */
export type Hosts = Readonly<Record<string, string>>;

export interface HeadnodeImage {
  /** The name of the base image. */
  readonly name: string;
  /** A scratch directory of its own. */
  readonly dir: string;
  /** With `vmlinuz` and `initrd.img` of examples/rack/installer.sh: kernel, modules and busybox are taken from there. */
  readonly installer: string;
  readonly hosts: Hosts;
  /** What DHCP tells to boot. */
  readonly bootFile: string;
}

/**
 * A base image whose machines are 10.77.0.2 and serve DHCP there, by dnsmasq: a kernel, an initrd in which all of it is, and
 * a disk that has nothing to do. `console` is the file of its serial port.
 */
export async function makeHeadnodeImage(
  lab: LibvirtLab,
  { name, dir, installer, hosts, bootFile }: HeadnodeImage,
): Promise<{ console: string }> {
  const root = join(dir, "root");
  mkdirSync(join(root, "etc"), { recursive: true });
  const sh = (script: string) => lab.must("sh", "-euc", script);
  await sh(`cd ${root} && zcat ${installer}/initrd.img | busybox cpio -idm 2> /dev/null`);
  const libraries = [...(await lab.must("ldd", "/usr/sbin/dnsmasq")).matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path!);
  for (const path of ["/usr/sbin/dnsmasq", ...libraries]) await sh(`mkdir -p ${root}${dirname(path)} && cp -L ${path} ${root}${path}`);
  writeFileSync(join(root, "init"), init);
  chmodSync(join(root, "init"), 0o755);
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/:/bin/sh\n");
  writeFileSync(join(root, "etc/group"), "root:x:0:\n");
  writeFileSync(join(root, "etc/dnsmasq.conf"), dnsmasqConf(hosts, bootFile));
  await sh(`cd ${root} && find . | busybox cpio -o -H newc 2> /dev/null | gzip -1 > ${dir}/initrd.img`);
  await sh(`qemu-img create -q -f qcow2 ${dir}/disk.qcow2 16M`);
  const console = join(dir, "console.log");
  const xml = join(dir, `${name}.xml`);
  writeFileSync(
    xml,
    `<domain type='qemu'><name>${name}</name><memory unit='MiB'>160</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>${installer}/vmlinuz</kernel><initrd>${dir}/initrd.img</initrd><cmdline>console=ttyS0 quiet</cmdline></os>
<features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${dir}/disk.qcow2'/><target dev='vda' bus='virtio'/></disk>
<serial type='file'><source path='${console}'/></serial>
<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/></devices></domain>`,
  );
  await lab.virsh("define", xml);
  return { console };
}

// Without checksums left to the card: the switch, which is a program, would pass them on unfinished.
const init = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin
mkdir -p /proc /sys /dev /run /tmp /var/run /var/lib/misc
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover; do
  insmod "/modules/$module.ko"
done
insmod /modules/virtio_net.ko csum=0
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set lo up
ip link set eth0 up
ip addr add 10.77.0.2/24 dev eth0
ip -6 addr add fd77::2/64 dev eth0
echo "the headnode is up"
dnsmasq -k -C /etc/dnsmasq.conf --log-facility=-
echo "dnsmasq has ended"
while true; do sleep 1000; done
`;

/** Router advertisements, as iPXE otherwise waits for IPv6. */
const dnsmasqConf = (hosts: Hosts, bootFile: string) => `port=0
user=root
no-ping
dhcp-authoritative
dhcp-ignore-clid
interface=eth0
bind-interfaces
dhcp-range=10.77.0.0,static,255.255.255.0
${Object.entries(hosts)
  .map(([mac, address]) => `dhcp-host=${mac},${address}`)
  .join("\n")}
dhcp-boot=${bootFile}
dhcp-option=encap:175,176,1b
enable-ra
dhcp-range=fd77::,ra-only,64
ra-param=eth0,4,30
log-dhcp
`;
