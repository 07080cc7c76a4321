; The BIOS of the BusLogic BT-958: makes its disks and CD drives drives of INT 13h, and lets a BIOS boot from them.
;
; An expansion ROM as PCI Local Bus 2.1, 6.3, describes it, with expansion headers of the Plug and Play BIOS
; Specification 1.0A, 3: one for each unit found, in the order of their IDs.  A disk's boot connection vector (BCV)
; makes it a drive when the BIOS has chosen the order; a CD drive has a bootstrap entry vector (BEV), which boots
; the CD.  The BIOS copies the ROM below 1 MiB, where it can be written to until the boot begins,
; and calls it in real mode with AX = bus, device and function of the card.
;
; All that is found out is written to the copy before it is sealed.  What changes later (mailboxes, CCB, sense
; data) is on the caller's stack: no memory is taken away from anyone.  Addresses for the adapter are segment
; times 16 plus offset, so INT 13h is for real mode, and for virtual-8086 mode where linear addresses are
; physical ones.  Once an operating system's driver has the adapter, INT 13h is no longer to be used.
;
; Not there: CDs that stand for a diskette or a disk (El Torito's emulation), logical units but 0, disks with blocks
; of other than 512 bytes, more than 32 bits of block number.

        cpu     686
        bits    16
        org     0

ROM_BYTES       equ     8192
UNITS           equ     15              ; on a wide bus, but the adapter itself
TARGETS         equ     16

BDA             equ     0x40            ; segment of the BIOS data area (IBM PC/AT), and offsets in it
BDA_TICKS       equ     0x6C
BDA_STATUS      equ     0x74            ; of the last disk operation
BDA_DISKS       equ     0x75            ; number of hard disks

; --- headers ---

header:         dw      0xAA55
                db      ROM_BYTES / 512
                jmp     near initialise
                times   0x18 - ($ - header) db 0
                dw      pci_data
                dw      expansion_headers

                align   4
pci_data:       db      "PCIR"
                dw      0x104B, 0x1040          ; vendor and device
                dw      0                       ; no vital product data
                dw      .end - pci_data
                db      0                       ; revision of this structure
                db      0, 0, 1                 ; class: mass storage, SCSI
                dw      ROM_BYTES / 512
                dw      1                       ; revision of the code
                db      0                       ; code for PCs
                db      0x80                    ; the last image
                dw      0
.end:

struc Expansion                                 ; Plug and Play BIOS 1.0A, 3.2
.signature      resb    4
.revision       resb    1
.length         resb    1                       ; in units of 16 bytes
.next           resw    1
                resb    1
.checksum       resb    1
.device         resd    1
.manufacturer   resw    1
.product        resw    1
.type           resb    3
.indicators     resb    1
.bcv            resw    1
.dv             resw    1
.bev            resw    1
                resw    1
.resources      resw    1
endstruc

INDICATORS      equ     0xE4            ; initialises itself once, may be shadowed, cacheable, boots

                align   16
expansion_headers:
%assign number 0
%rep UNITS
                db      "$PnP", 1, Expansion_size / 16
                dw      0                       ; these three are filled in for what is found
                db      0, 0
                dd      0
                dw      manufacturer, names + number * NAME_BYTES
                db      1, 0, 0, INDICATORS
                dw      0, 0, 0, 0, 0
%assign number number + 1
%endrep

manufacturer:   db      "Ring3", 0

; --- what is found out, and stays ---

struc Unit
.drive          resb    1               ; as INT 13h knows it; 0: none yet
.target         resb    1
.heads          resw    1
.sectors        resw    1               ; per track
.cylinders      resw    1               ; that INT 13h can name: 1024 at most
.blocks         resd    1               ; of a disk; a CD may be changed
.block_bytes    resd    1               ; which tells disks from CD drives
endstruc

NAME_BYTES      equ     40

                align   4
units:          times   UNITS * Unit_size db 0
units_end:
names:          times   UNITS * NAME_BYTES db 0
count:          dw      0               ; of units
last_cd:        db      0xEF            ; drive number for the next CD drive: a BIOS's own count up from E0h
                db      0
ports:          dw      0               ; the adapter's registers
location:       dw      0               ; its bus, device and function
previous:       dd      0               ; who handled INT 13h before; 0: we don't yet

%include "adapter.asm"          ; commands, mailboxes, CCBs
%include "units.asm"            ; initialisation, boot connection vectors
%include "geometry.asm"         ; cylinders, heads and sectors
%include "int13.asm"            ; the functions of INT 13h
%include "edd.asm"              ; … and its extensions
%include "cd.asm"               ; booting from CDs

%if $ - header >= ROM_BYTES
        %error "the code does not fit the ROM"
%endif
                times   ROM_BYTES - 1 - ($ - header) db 0xFF
checksum:       db      0               ; so that all bytes add up to 0: set when this is built, and by `seal`
