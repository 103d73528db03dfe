#!/bin/sh
# Take down the rack in $RACK: its machines, BMCs and switch, and then the folder.
set -u
: "${RACK:?the folder of the rack}"
[ -f "$RACK/site-layout.json" ] || { echo "There is no rack in $RACK." >&2; exit 1; }
for pid in "$RACK"/node-*/bmc.pid "$RACK"/node-*/qemu.pid "$RACK"/switch/*.pid; do
  [ ! -f "$pid" ] || kill "$(cat "$pid")" 2> /dev/null
done
for port in "$RACK"/node-*/machine; do (. "$port" && ip link del "$PORT" 2> /dev/null); done
rm -rf "$RACK"
