/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guest's ACPI finds, the same for every guest. What differs is in three names of an SSDT
 * that acpi.c makes: VDEV (bits of devices that are there), VHIB and VHIE (first and last address
 * of the 64-bit PCI window). Addresses and ports are those of vmm/memory.h and devices/acpi-power.h.
 */
DefinitionBlock ("dsdt.aml", "DSDT", 2, "VMD", "VMDVMM", 1)
{
	External (\VDEV, IntObj)
	External (\VHIB, IntObj)
	External (\VHIE, IntObj)

	Name (\_S5, Package () { 5, 5, 0, 0 })

	Scope (\_SB)
	{
		/* Power button and generation id arrive as one interrupt; the register says which. */
		Device (GED)
		{
			Name (_HID, "ACPI0013")
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate () {
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 9 }
			})
			OperationRegion (EVR, SystemIO, 0x600, 1)
			Field (EVR, ByteAcc, NoLock, Preserve) { EVNT, 8 }
			Method (_EVT, 1, Serialized)
			{
				Local0 = EVNT
				If (Local0 & 1) { Notify (\_SB.PWRB, 0x80) }
				If (Local0 & 2) { Notify (\_SB.VGEN, 0x80) }
			}
		}

		Device (PWRB)
		{
			Name (_HID, EisaId ("PNP0C0C"))
			Name (_UID, 0)
		}

		Device (VGEN)
		{
			Name (_HID, "VMD0001")
			Name (_CID, "VM_Gen_Counter")
			Name (_DDN, "VM_Gen_Counter")
			Name (ADDR, Package () { 0x000FF000, 0 })
		}

		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 1)
			Method (_STA) { Return ((\VDEV & 1) * 0x0F) }
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, 0x03F8, 0x03F8, 1, 8)
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }
			})
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, 0x0070, 0x0070, 1, 2)
			})
		}

		Device (PEVT)
		{
			Name (_HID, "QEMU0001")
			Method (_STA) { Return (((\VDEV >> 1) & 1) * 0x0F) }
			OperationRegion (PEOR, SystemIO, 0x505, 1)
			Field (PEOR, ByteAcc, NoLock, Preserve) { PEPT, 8 }
			Name (_CRS, ResourceTemplate () {
				IO (Decode16, 0x0505, 0x0505, 1, 1)
			})
			Method (RDPT) { Return (PEPT) }
			Method (WRPT, 1) { PEPT = Arg0 }
		}

		/* The ECAM is nobody else's. */
		Device (MBRD)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate () {
				Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
			})
		}

		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_SEG, 0)
			Name (_BBN, 0)
			Name (_UID, 0)
			Name (_CCA, 1)
			Name (LOWR, ResourceTemplate () {
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0, 0, 1)
				IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
			})
			Name (HIGR, ResourceTemplate () {
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0, 0x4000000000, 0x43FFFFFFFF, 0, 0x400000000, , , HWIN)
			})
			Method (_CRS, 0, Serialized)
			{
				If (\VHIE == 0) { Return (LOWR) }
				CreateQWordField (HIGR, \_SB.PCI0.HWIN._MIN, WMIN)
				CreateQWordField (HIGR, \_SB.PCI0.HWIN._MAX, WMAX)
				CreateQWordField (HIGR, \_SB.PCI0.HWIN._LEN, WLEN)
				WMIN = \VHIB
				WMAX = \VHIE
				WLEN = \VHIE - \VHIB + 1
				ConcatenateResTemplate (LOWR, HIGR, Local0)
				Return (Local0)
			}
			/* The firmware keeps nothing for itself. */
			Method (_OSC, 4)
			{
				CreateDWordField (Arg3, 0, CDW1)
				If (Arg0 != ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))
				{
					CDW1 |= 4
				}
				Return (Arg3)
			}
		}
	}
}
