#!/bin/sh
# A rack on one machine: an Open vSwitch, and nodes that are virtual machines with BMCs of their own (ipmi_sim).
#   RACK=<a folder> examples/rack/up.sh <how many nodes>        MEMORY: of a node, in MiB (default 128)
# All of it lives in $RACK and in the network namespace that this is run in. It writes haas.cfg and site-layout.json,
# with which haas takes charge of the rack. examples/rack/down.sh takes it down again.
set -eu
: "${RACK:?a folder for the rack}"
count=${1:?how many nodes}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$RACK/switch"
ip link set lo up

# The switch, in user space: no kernel module is needed, and it minds nobody else's Open vSwitch.
export OVS_RUNDIR="$RACK/switch" OVS_LOGDIR="$RACK/switch"
db="unix:$RACK/switch/db.sock"
daemon() { program=$1; shift; "$program" "$@" --pidfile="$RACK/switch/$program.pid" --log-file -vconsole:warn --detach; }
ovsdb-tool create "$RACK/switch/conf.db" /usr/share/openvswitch/vswitch.ovsschema
daemon ovsdb-server "$RACK/switch/conf.db" --remote="p$db"
ovs-vsctl --db="$db" --no-wait init
daemon ovs-vswitchd "$db"
ovs-vsctl --db="$db" --timeout=10 add-br rack0 -- set bridge rack0 datapath_type=netdev

password=$(head -c 8 /dev/urandom | od -An -tx1 | tr -d ' \n')
for i in $(seq 1 "$count"); do
  node=$RACK/node-0$i
  mkdir -p "$node/bmc"
  # A cable: one end in the switch, the other one in the machine. Nothing passes until haas says so.
  ip tuntap add dev "port$i" mode tap
  ip link set "port$i" up
  ovs-vsctl --db="$db" --timeout=10 add-port rack0 "port$i" tag=4000
  truncate -s 64M "$node/disk.img"
  echo "PORT=port$i MAC=52:54:00:aa:00:0$i MEMORY=${MEMORY:-128}" > "$node/machine"
  cat > "$node/bmc.conf" <<CONF
name "node-0$i"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 $((6230 + i))
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa1234567890000$(printf %02x "$i")
  endlan
  user 1 true "" "" user 10 none
  user 2 true "admin" "$password" admin 10 none md2 md5 straight
  chassis_control "$here/chassis.sh $node"
CONF
  cat > "$node/bmc.emu" <<EMU
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
EMU
  chmod 600 "$node/bmc.conf"
  ipmi_sim -n -c "$node/bmc.conf" -f "$node/bmc.emu" -s "$node/bmc" > "$node/bmc.log" 2>&1 < /dev/null &
  echo $! > "$node/bmc.pid"
done

cat > "$RACK/haas.cfg" <<CONF
[database]
uri = sqlite:///$RACK/haas.db
[extensions]
haas.ext.auth.null =
haas.ext.network_allocators.vlan_pool =
haas.ext.obm.ipmi =
haas.ext.switches.ovs =
[haas.ext.network_allocators.vlan_pool]
vlans = 100-109
[haas.ext.obm.ipmi]
cipher_suite = 3
CONF
umask 077
nodes=$(for i in $(seq 1 "$count"); do
  [ "$i" = 1 ] || echo ,
  cat <<NODE
    { "name": "node-0$i",
      "obm": { "type": "ipmi", "host": "127.0.0.1:$((6230 + i))", "user": "admin", "password": "$password" },
      "nics": [{ "name": "eth0", "mac": "52:54:00:aa:00:0$i", "switch": "rack0", "port": "port$i" }] }
NODE
done)
cat > "$RACK/site-layout.json" <<SITE
{ "switches": [
    { "switch": "rack0", "type": "http://schema.massopencloud.org/haas/v0/switches/ovs",
      "ovs_bridge": "rack0", "database": "$RACK/switch/db.sock" }
  ],
  "nodes": [
$nodes
  ] }
SITE
