#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes the test guests: Debian's kernel and a busybox initramfs per architecture, from Debian
# packages that are downloaded and unpacked but never installed. Nothing outside the cache directory
# is touched: apt works on private directories, the host's package lists and architectures stay.
#
# usage: fetch-kernels.sh [--dir DIR] [x86_64] [aarch64]
#
# Result, per architecture: DIR/ARCH/vmlinuz, DIR/ARCH/initrd.gz, DIR/ARCH/version. DIR is
# ${XDG_CACHE_HOME:-$HOME/.cache}/vmd-test unless given. What is there already is kept, so a second
# run needs no network; a set appears whole or not at all.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
kit_dir=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vmd-test
tmp=

say() { printf '%s\n' "fetch-kernels: $*" >&2; }
die() {
	say "$*"
	exit 1
}

clean_up() {
	[ -z "$tmp" ] || rm -rf "$tmp"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

debian_arch() {
	case $1 in
	x86_64) echo amd64 ;;
	aarch64) echo arm64 ;;
	*) die "unknown architecture '$1' (x86_64 or aarch64)" ;;
	esac
}

# The cloud flavour is the smallest, but on arm64 it lacks the driver of the power button.
kernel_package() {
	case $1 in
	x86_64) echo linux-image-cloud-amd64 ;;
	aarch64) echo linux-image-arm64 ;;
	esac
}

# Modules the guest loads, where its kernel does not have them built in; what they need comes along.
guest_modules="virtio_pci virtio_blk virtio_net virtio_console virtio-rng virtio_balloon virtiofs
vmw_vsock_virtio_transport evdev button gpio_keys pvpanic-mmio pvpanic-pci i6300esb virtio_input
virtio_gpu virtio_scsi sd_mod sr_mod isofs nvme e1000 e1000e 8139cp efivarfs tpm_tis tpm_crb"

# Runs an apt program for one Debian architecture on private directories.
private_apt() {
	private_arch=$1
	shift
	private_dir=$tmp/apt
	mkdir -p "$private_dir/lists/partial" "$private_dir/cache/archives/partial"
	private_tool=$1
	shift
	"$private_tool" -q -o APT::Architecture="$private_arch" -o APT::Architectures="$private_arch" \
		-o Dir::State::Lists="$private_dir/lists" -o Dir::Cache="$private_dir/cache" \
		-o Dir::State::status=/dev/null -o APT::Sandbox::User="" \
		-o Acquire::Languages=none -o Acquire::Retries=3 \
		-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
		-o Debug::NoLocking=true "$@"
}

# Downloads a package into $tmp/debs and unpacks it into a directory.
fetch_package() { # DEBIAN-ARCH PACKAGE DIRECTORY
	say "downloading $2 ($1)"
	rm -rf "$tmp/debs"
	mkdir -p "$tmp/debs" "$3"
	(cd "$tmp/debs" && private_apt "$1" apt-get download "$2") >"$tmp/apt.log" 2>&1 || {
		cat "$tmp/apt.log" >&2
		die "cannot download $2"
	}
	dpkg-deb -x "$tmp"/debs/*.deb "$3"
}

# Copies one module and, before it, everything it needs, and appends their names to the load order.
add_module() { # PATH-BELOW-LIB-MODULES-VERSION
	add_name=$(basename "$1")
	add_name=${add_name%.xz}
	add_name=${add_name%.zst}
	grep -qxF "$add_name" "$tmp/root/modules.order" && return
	case $1 in
	*.xz) xz -dc "$modules/$1" >"$tmp/root/modules/$add_name" ;;
	*.zst) zstd -qdc "$modules/$1" >"$tmp/root/modules/$add_name" ;;
	*) cp "$modules/$1" "$tmp/root/modules/$add_name" ;;
	esac
	echo "$add_name" >>"$tmp/root/modules.order"
}

# modules.dep lists what a module needs, the innermost last.
add_modules() {
	: >"$tmp/root/modules.order"
	for want in $guest_modules; do
		line=$(grep -E "(^|/)$want\.ko(\.xz|\.zst)?:" "$modules/modules.dep") || continue
		set -- "${line%%:*}"
		for needed in ${line#*:}; do
			set -- "$needed" "$@"
		done
		for module in "$@"; do
			add_module "$module"
		done
	done
}

build_initramfs() {
	mkdir -p "$tmp/root/bin" "$tmp/root/sbin" "$tmp/root/proc" "$tmp/root/sys" "$tmp/root/dev" \
		"$tmp/root/run" "$tmp/root/tmp" "$tmp/root/mnt" "$tmp/root/root" "$tmp/root/etc" \
		"$tmp/root/modules"
	cp "$tmp/busybox/bin/busybox" "$tmp/root/bin/busybox"
	cp "$here/dhcp-script" "$tmp/root/bin/dhcp-script"
	cp "$here/init" "$tmp/root/init"
	chmod 755 "$tmp/root/init" "$tmp/root/bin/dhcp-script" "$tmp/root/bin/busybox"
	# Applet names, since a busybox of another architecture cannot be asked for its list here.
	for applet in sh ash mount umount mkdir rmdir ls cat cp mv rm ln chmod echo printf insmod rmmod \
		lsmod sed grep awk cut head tail wc sort tr dd hexdump sync poweroff reboot halt sleep \
		setsid ip udhcpc uname ps kill free dmesg stty date df du find test true false seq \
		mke2fs mkfs.ext2 fsync sha256sum md5sum cmp nc wget ping mknod touch env tee yes; do
		ln -s busybox "$tmp/root/bin/$applet"
	done
	add_modules
	(cd "$tmp/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) |
		gzip -n >"$tmp/out/initrd.gz"
}

# Everything that decides what a set looks like; another value makes a new set.
recipe() {
	cat "$0" "$here/init" "$here/dhcp-script" | sha256sum | cut -c1-16
}

build_set() { # ARCH FINAL-DIRECTORY
	arch=$1 deb_arch=$(debian_arch "$1")
	tmp=$(mktemp -d "$kit_dir/.tmp.XXXXXX")
	mkdir -p "$tmp/out"
	say "reading the package lists of $deb_arch"
	# A third-party source that fails must not stop this; what counts is the packages below.
	private_apt "$deb_arch" apt-get update >"$tmp/update.log" 2>&1 || :
	meta=$(kernel_package "$arch")
	image=$(private_apt "$deb_arch" apt-cache depends "$meta" 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)
	[ -n "$image" ] || {
		tail -n 5 "$tmp/update.log" >&2
		die "no package $meta in the lists: is there a network, and a Debian package source?"
	}
	fetch_package "$deb_arch" "$image" "$tmp/kernel"
	fetch_package "$deb_arch" busybox-static "$tmp/busybox"
	kernel=${image#linux-image-}
	kernel=${kernel%-unsigned}
	modules=$tmp/kernel/lib/modules/$kernel
	[ -d "$modules" ] || modules=$tmp/kernel/usr/lib/modules/$kernel
	[ -d "$modules" ] || die "$image holds no modules of $kernel"
	# depmod wants lib/modules below its base, wherever the package has them.
	depmod -b "${modules%/lib/modules/*}" "$kernel"
	cp "$tmp/kernel/boot/vmlinuz-$kernel" "$tmp/out/vmlinuz"
	echo "$kernel" >"$tmp/out/version"
	build_initramfs
	mv "$tmp/out" "$2"
	rm -rf "$tmp"
	tmp=
}

provide() { # ARCH
	set_dir=$kit_dir/$1-$(recipe)
	[ -d "$set_dir" ] || build_set "$1" "$set_dir"
	# The stable name is switched in one step; sets of older recipes are dropped after it.
	ln -sfn "$(basename "$set_dir")" "$kit_dir/.$1.new"
	mv -T "$kit_dir/.$1.new" "$kit_dir/$1"
	for old in "$kit_dir/$1"-*; do
		[ "$old" = "$set_dir" ] || rm -rf "$old"
	done
}

if [ "${1:-}" = --dir ]; then
	kit_dir=${2:?--dir needs a directory}
	shift 2
fi
[ $# -gt 0 ] || set -- x86_64 aarch64
for arch in "$@"; do
	debian_arch "$arch" >/dev/null
done

PATH=$PATH:/usr/sbin:/sbin
for tool in apt-get apt-cache dpkg-deb depmod cpio gzip sha256sum flock; do
	command -v "$tool" >/dev/null || die "$tool is missing (see packages.list)"
done
mkdir -p "$kit_dir"
kit_dir=$(cd "$kit_dir" && pwd)
# One at a time; under the lock, leftovers of killed runs can only be leftovers.
exec 9>"$kit_dir/.lock"
flock 9
rm -rf "$kit_dir"/.tmp.*
for arch in "$@"; do
	provide "$arch"
	echo "$kit_dir/$arch"
done
