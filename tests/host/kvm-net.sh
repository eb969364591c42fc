#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# full
# shellcheck source=/dev/null
# A Linux guest on our monitor with two cards, a tap device and passt: ping, TCP both ways, names. It has
# four processors in two sockets, memory of the host's pool of huge pages, and all is typed at its virtio console.
. ./lib.sh

# shellcheck disable=SC2034 # for make_guest
guest_does=nothing guest_console=hvc0
pong() { busybox ping -c 2 -W 5 "$1"; }
sum_of() { sha256sum "$1" | cut -d' ' -f1; }
# Both ends keep their side open: busybox nc and Debian 12's passt take its end for the end of all.
# What the guest's client gets, in /run/down too. ADDRESS
guest_sum() {
	in_guest web "[ -p /run/in ] || mkfifo /run/in; exec 9<>/run/in; echo go >&9; \
nc $1 7001 <&9 | tee /run/down | sha256sum" | cut -d' ' -f1
}
# The guest's server sends what its client got before, and ends when somebody has it: passt answers for it
# before it listens, and then ends the connection.
serve() { in_guest web "{ nc -l -p $1 </run/down >/dev/null & }"; } # PORT
fetch() { is "$(echo go | timeout 60 socat -,ignoreeof TCP:"$1" | sha256sum | cut -d' ' -f1)" "$(sum_of down)"; } # ADDRESS:PORT
pool() { sed -n "s/^$1: *//p" /proc/meminfo; } # FIELD
moved() { # NIC-INDEX
	vmctl stats -o json web | jq -e ".nics[$1] | .rx_bytes > 1048576 and .tx_bytes > 1048576"
}

# Names: the host's own resolver, which the tap's guest asks directly and passt asks for its guest.
ip tuntap add tap0 mode tap
ip addr add 10.77.0.1/24 dev tap0
ip link set tap0 up
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --bind-dynamic --interface=tap0 --interface=lo \
	--dhcp-range=10.77.0.10,10.77.0.20 --dhcp-leasefile=/tmp/leases --dhcp-option=3 \
	--address=/tap.test/10.77.0.1 --address=/passt.test/10.88.0.1 --pid-file=/tmp/dnsmasq.pid --user=root
# passt's pings are of a kind of socket that Debian lets nobody open.
echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
head -c 1M /dev/urandom >down
# Debian 12's passt passes nothing on of a server until its client has spoken.
socat -t 60 TCP-LISTEN:7001,reuseaddr,fork SYSTEM:'head -n 1 >/dev/null; cat down' &
server=$!
echo 64 >/proc/sys/vm/nr_hugepages

check "vmd runs, and proves KVM" unpack_vmd || finish
check "a guest is created" make_guest web --engine kvm --cpus 4,sockets=2,cores=2 --console virtio \
	--memory-backing hugepages=2M --nic tap,ifname=tap0 --nic user,forward=tcp:7003:7003 || finish
check "it starts" vmctl start web || finish
check "on our monitor" on_kvm web
check "hvc0: it boots to a login there" booted web || finish
check "huge pages: all of its memory is of the pool" is $(($(pool HugePages_Free) - $(pool HugePages_Rsvd))) 0
check "huge pages: what it touched is" [ "$(pool HugePages_Free)" -lt 32 ]
attach web
check "hvc0: it has a shell there" in_guest web 'readlink /proc/$$/fd/0 | grep -E "hvc0|console"'
check "tap: it has an address by DHCP" seen_at web 'vmd-guest: eth0 10.77.0.' 60
check "passt: it has an address by DHCP" seen_at web 'vmd-guest: eth1 10.0.2.15' 60
check "SMP: four processors in two sockets" is "$(in_guest web 'cat /sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id' | paste -sd' ')" "0 0 1 1"
tap=$(in_guest web "ip -4 -o addr show dev eth0" | sed 's,.*inet \([^/]*\)/.*,\1,')

check "tap: the guest pings the host" in_guest web 'ping -c 2 -W 5 10.77.0.1'
check "tap: the host pings the guest" pong "$tap"
check "tap: TCP into the guest" is "$(guest_sum 10.77.0.1)" "$(sum_of down)"
serve 7002
check "tap: TCP out of the guest" within 30 fetch "$tap:7002"
check "tap: names" in_guest web 'nslookup tap.test 10.77.0.1 | grep 10.77.0.1$'

# The way over passt, and none but that.
check "the tap device is out of the way" in_guest web 'rm /run/down; ip link set eth0 down && ip route | grep -v eth0'
gateway=$(in_guest web 'ip route | sed -n "s/^default via \([^ ]*\) dev eth1.*/\1/p"')
check "passt: the guest pings the host" in_guest web "ping -c 2 -W 5 10.77.0.1"
check "passt: TCP into the guest" is "$(guest_sum "$gateway")" "$(sum_of down)"
serve 7003
check "passt: TCP out of the guest" within 30 fetch 127.0.0.1:7003
check "passt: names" in_guest web 'nslookup passt.test | grep 10.88.0.1'
for nic in 0 1; do
	check "counters: nic $nic, both ways" moved $nic
done

check "it stops by itself" vmctl stop web --timeout 60s
check "passt went with it" within 10 sh -c '! pidof passt passt.avx2'
check "huge pages: they are all back" is "$(pool HugePages_Free)" 64
kill "$(cat /tmp/dnsmasq.pid)" "$server"
finish
