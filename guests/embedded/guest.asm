; The embedded guest: what Ring3 boots when it is given nothing to boot.
;
; A Multiboot 1 image of a few KiB.  It reports on COM1 the machine it finds, runs the critical section
; of the 1999 talk in ring 0 while timer interrupts arrive, times three loops in every mode that an x86
; has, and then echoes the keys typed on COM1: `q` or Ctrl-D powers the machine off, `r` resets it.
; With the word `once` on its command line it powers off as soon as the tests are done.
;
; Any PC emulator can run it:  qemu-system-x86_64 -kernel embedded_guest.bin -append once -serial stdio
;
; Memory: the image and its zeroed data lie at 1 MiB.  64 KiB at LOW_BASE are one real-mode segment
; that holds the 16-bit code, the buffer of the loops, their results and the stacks of the lesser modes.
; The boot loader's own tables may lie there too, so they are read before that segment is written.

        cpu     x64
        org     0x100000

IMAGE_BASE      equ     0x100000
LOW_BASE        equ     0x10000         ; one 64 KiB segment below 1 MiB
LOW_SEGMENT     equ     LOW_BASE >> 4
LOW_BUFFER      equ     0x4000          ; offsets in the low segment: the loops' buffer,
LOW_RESULTS     equ     0x3F00          ; what they report,
LOW_STACK       equ     0xF000          ; and the stack of ring 3 and of 16-bit code, growing down

        section .text   align=16
        section .low16  follows=.text   align=16 vstart=0
        section .data   follows=.low16  align=16
        section .bss    nobits follows=.data align=4096

%include "print.asm"            ; COM1, text and numbers
%include "boot.asm"             ; Multiboot header, entry, the order of things
%include "machine.asm"          ; the report of the machine
%include "interrupts.asm"       ; IDT, 8259 pair, 8254, exceptions
%include "critical.asm"         ; the talk's critical section under interrupts
%include "modes.asm"            ; GDT, TSS, entering and leaving each mode
%include "bench.asm"            ; the timed loops
%include "keys.asm"             ; the echo
%include "power.asm"            ; power off, reset

        section .low16
low16_size      equ     $ - $$
        section .data
image_end:
        section .bss
bss_end:
