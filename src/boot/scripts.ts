import type { Profile } from "./config.ts";
import { hyphened, type Mac } from "./mac.ts";

// What the boot loaders read: iPXE scripts, and configurations of pxelinux.

const tries = 40;
const pauseSeconds = 3;

/**
 * What DHCP hands to iPXE: go on with the script of the card that was booted. The answer is waited for,
 * as a server that starts again is no reason to boot an old disk, but not for ever.
 */
export const bootScript = (server: string): string => `#!ipxe
set tries:int32 0
:again
imgfetch --name haas ${server}/ipxe/\${netX/mac:hexhyp} && goto found ||
inc tries
iseq \${tries} ${tries} && goto disk ||
echo haas: no answer from ${server}, trying again
sleep ${pauseSeconds}
goto again
:found
chain --replace --autofree haas
:disk
${disk}`;

/** BIOS reads the first disk; UEFI goes on with what its boot order names next. */
const disk = `iseq \${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x80 || exit 1
`;

export const diskScript = (why: string): string => `#!ipxe
echo haas: ${why}: booting from disk
${disk}`;

/** Names for UEFI, where the kernel itself asks for its initrd. */
export function installScript(server: string, name: string, profile: Profile, args: string): string {
  const names = profile.initrd.map((_, i) => `initrd${i}`);
  return [
    "#!ipxe",
    `echo haas: ${name} installs ${profile.name}`,
    ["kernel", `${server}/files/${profile.kernel}`, ...names.map((initrd) => `initrd=${initrd}`), args].join(" ").trimEnd(),
    ...profile.initrd.map((path, i) => `initrd --name ${names[i]} ${server}/files/${path}`),
    "boot",
    "",
  ].join("\n");
}

export const localbootConfig = "DEFAULT disk\nPROMPT 0\nLABEL disk\n  LOCALBOOT 0\n";

/** In TFTP, which everybody reads, stands only where to ask: the answer depends on who asks. */
export const pointerConfig = (server: string, mac: Mac): string =>
  `DEFAULT haas\nPROMPT 0\nLABEL haas\n  CONFIG ${server}/pxelinux/${hyphened(mac)}\n`;

export const installConfig = (server: string, profile: Profile, args: string): string =>
  [
    "DEFAULT install",
    "PROMPT 0",
    "LABEL install",
    `  KERNEL ${server}/files/${profile.kernel}`,
    ...(profile.initrd.length > 0 ? [`  INITRD ${profile.initrd.map((path) => `${server}/files/${path}`).join(",")}`] : []),
    ...(args === "" ? [] : [`  APPEND ${args}`]),
    "",
  ].join("\n");
