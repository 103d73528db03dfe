#!/bin/sh
# Fetch what the profiles of boot.toml boot: kernels, initrds, and Ubuntu's ISO. Into files/ beside this script.
#   ./fetch-images.sh centos|debian|ubuntu …
#
# What is checked:
#   centos   the SHA-256 sums of the tree's .treeinfo, which is not signed: HTTPS is all that vouches for it
#   debian   Debian's signature of the release, and the sums from there down to each file (package debian-archive-keyring)
#   ubuntu   Ubuntu's signature of the sums (package ubuntu-keyring; Debian 12 has none), and the ISO's sum
# A file is in its place only once it has passed. Needs curl, gpgv, and for ubuntu bsdtar (package libarchive-tools).
#
# Tried with a small mirror of our own making, and not yet with the real ones.
#
# Places: DEBIAN_MIRROR (must be set), CENTOS_MIRROR, UBUNTU_MIRROR, DEBIAN_SUITE (see below); MIRROR is that of all that are
# asked for. AlmaLinux: MIRROR=https://repo.almalinux.org/almalinux/9 ./fetch-images.sh centos
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

get() { echo "$1"; curl --fail --location --silent --show-error --retry 3 --output "$2" "$1"; }
check() { echo "$1  $2" | sha256sum --check --quiet; }
# Put a file in its place: put <profile> <file> [<name there>]
put() { mkdir -p "files/$1" && mv "$2" "files/$1/${3:-${2##*/}}"; }
keyring() { [ -f "$1" ] || { echo "$1 is missing: apt-get install $2, or copy it from a machine that has it." >&2; exit 1; }; }

centos() {
  base=${MIRROR:-${CENTOS_MIRROR:-https://mirror.stream.centos.org/9-stream}}/BaseOS/x86_64/os
  get "$base/.treeinfo" "$work/treeinfo"
  for file in vmlinuz initrd.img; do
    sum=$(sed -n "s#^images/pxeboot/$file *= *sha256:\([0-9a-f]*\)\$#\1#p" "$work/treeinfo" | head -n 1)
    get "$base/images/pxeboot/$file" "$work/$file"
    check "$sum" "$work/$file"
    put centos "$work/$file"
  done
}

debian() {
  base=${MIRROR:-${DEBIAN_MIRROR:?the address of a Debian mirror near you, with /debian at its end}}/dists/${DEBIAN_SUITE:-bookworm}
  images=main/installer-amd64/current/images
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  keyring "$keys" debian-archive-keyring
  get "$base/InRelease" "$work/InRelease"
  gpgv --quiet --keyring "$keys" --output "$work/Release" "$work/InRelease"
  get "$base/$images/SHA256SUMS" "$work/SHA256SUMS"
  check "$(sed -n '/^SHA256:/,$p' "$work/Release" | awk -v name="$images/SHA256SUMS" '$3 == name { print $1; exit }')" "$work/SHA256SUMS"
  for file in linux initrd.gz; do
    path=netboot/debian-installer/amd64/$file
    get "$base/$images/$path" "$work/$file"
    check "$(awk -v name="./$path" '$2 == name { print $1 }' "$work/SHA256SUMS")" "$work/$file"
    put debian "$work/$file"
  done
}

ubuntu() {
  base=${MIRROR:-${UBUNTU_MIRROR:-https://releases.ubuntu.com/24.04}}
  keys=/usr/share/keyrings/ubuntu-archive-keyring.gpg
  keyring "$keys" ubuntu-keyring
  get "$base/SHA256SUMS" "$work/SHA256SUMS"
  get "$base/SHA256SUMS.gpg" "$work/SHA256SUMS.gpg"
  gpgv --quiet --keyring "$keys" "$work/SHA256SUMS.gpg" "$work/SHA256SUMS"
  iso=$(sed -n 's/^[0-9a-f]* [ *]\(ubuntu-.*-live-server-amd64\.iso\)$/\1/p' "$work/SHA256SUMS" | sort -V | tail -n 1)
  # The ISO is large: it is loaded where it will stay.
  mkdir -p files/ubuntu
  get "$base/$iso" files/ubuntu/live-server.part
  check "$(awk -v name="*$iso" '$2 == name || "*" $2 == name { print $1 }' "$work/SHA256SUMS")" files/ubuntu/live-server.part
  bsdtar -x -f files/ubuntu/live-server.part -C "$work" casper/vmlinuz casper/initrd
  chmod u+w "$work/casper" "$work"/casper/*
  put ubuntu "$work/casper/vmlinuz"
  put ubuntu "$work/casper/initrd"
  mv files/ubuntu/live-server.part files/ubuntu/live-server.iso
}

[ $# -gt 0 ] || { echo "Usage: $0 centos|debian|ubuntu ..." >&2; exit 2; }
for profile in "$@"; do
  case $profile in
    centos | debian | ubuntu) "$profile" ;;
    *) echo "There is no profile $profile here." >&2; exit 2 ;;
  esac
done
