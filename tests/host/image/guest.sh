# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2154 # read by ../build-image, whose names these are
# The Debian guest of the host: an installed system with systemd, Debian's cloud kernel and its standard
# one, and the initrds that their packages made. In /boot is also the cloud kernel's vmlinux, unpacked from its vmlinuz.
# root's password is "guest".

# Hardware that no guest has and that initramfs-tools leaves out of an initrd for any machine
# (MODULES=most). Not unpacking it saves most of the time.
guest_left_out="sound drivers/gpu drivers/media drivers/staging drivers/infiniband drivers/iio
drivers/net/wireless drivers/hwmon drivers/isdn drivers/thunderbolt drivers/leds"
# Of the drivers, all that is left when the initrds are made.
guest_drivers="acpi block char cpufreq crypto firmware input misc/pvpanic net/virtio_net.ko
net/net_failover.ko pci rtc virtio"

bootstrap_guest() {
	local folder options=()
	for folder in $guest_left_out; do
		options+=("--dpkgopt=path-exclude=/lib/modules/*/kernel/$folder/*")
	done
	bootstrap "$tmp/guest" "$here/image/guest-packages" "${options[@]}"
}

prune_guest_modules() { # MODULES-DIRECTORY
	local name
	mkdir "$1/kept"
	for name in $guest_drivers; do
		[ -e "$1/kernel/drivers/$name" ] || continue
		mkdir -p "$1/kept/$(dirname "$name")"
		mv "$1/kernel/drivers/$name" "$1/kept/$name"
	done
	rm -rf "$1/kernel/drivers"
	mv "$1/kept" "$1/kernel/drivers"
	depmod -b "$tmp/guest" "$(basename "$1")"
}

configure_guest() {
	local root=$tmp/guest unit
	echo 'root:guest' | chroot "$root" chpasswd
	# What only takes time here.
	for unit in getty@tty1.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
		e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-networkd.service \
		systemd-timesyncd.service systemd-pstore.service systemd-tmpfiles-clean.timer \
		modprobe@{configfs,dm_mod,drm,efi_pstore,fuse,loop}.service dev-{hugepages,mqueue}.mount \
		sys-kernel-{config,debug,tracing}.mount sys-fs-fuse-connections.mount \
		systemd-{binfmt,random-seed,sysctl,update-utmp,update-utmp-runlevel}.service; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
	echo 'LABEL=guest / ext4 defaults,noatime 0 1' >"$root/etc/fstab"
	echo debian >"$root/etc/hostname"
	echo '127.0.0.1 localhost debian' >"$root/etc/hosts"
	: >"$root/etc/machine-id"
	rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
}

build_guest() {
	local modules version
	bootstrap_guest
	for modules in "$tmp"/guest/usr/lib/modules/*; do
		version=$(basename "$modules")
		[ "${version#*cloud}" = "$version" ] || "$here/../kit/extract-vmlinux" \
			"$tmp/guest/boot/vmlinuz-$version" "$tmp/guest/boot/vmlinux-$version"
		prune_guest_modules "$modules"
	done
	configure_guest
	truncate -s 2G "$tmp/out/guest.img"
	mke2fs -q -F -t ext4 -L guest -m 0 -O ^metadata_csum_seed -E lazy_itable_init=1,nodiscard \
		-d "$tmp/guest" "$tmp/out/guest.img"
}
