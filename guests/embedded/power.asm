; Power off through ACPI's PM1a control register, reset by every way a PC has.
;
; The power-management function is the 82371AB's (PIIX4): device 8086h:7113h, wherever on bus 0 it
; lies; register 40h holds the base of its I/O space, 80h bit 0 enables it.  Intel 290562, §7.1, §7.2.

PIIX4_PM        equ     0x71138086
PIIX4_PMBASE    equ     0x40
PIIX4_PMREGMISC equ     0x80
PMIOSE          equ     0x01
PM_BASE_DEFAULT equ     0x600           ; if no firmware has chosen one

PM1_CONTROL     equ     4               ; offset from the base
SLP_EN          equ     1 << 13
SLP_TYP_OFF     equ     0 << 10         ; PIIX4: soft off
POWER_OFF_PATIENCE equ  100000          ; reads of a port, each about 1 µs

DEBUG_EXIT      equ     0xF4            ; isa-debug-exit
RESET_CONTROL   equ     0xCF9           ; PIIX
RESET_HARD      equ     0x02
RESET_GO        equ     0x04
PORT_92         equ     0x92
KBC_COMMAND     equ     0x64
KBC_RESET       equ     0xFE

        section .text
        bits    32

; Sets pm_base, and enables the space behind it.
find_power_management:
        xor     ebx, ebx
.function:
        xor     al, al
        call    pci_read
        cmp     eax, PIIX4_PM
        je      .found
        add     ebx, 1 << 8
        cmp     ebx, 1 << 16
        jb      .function
        ret
.found:
        mov     al, PIIX4_PMBASE
        call    pci_read
        and     eax, 0xFFC0
        jnz     .has_base
        mov     ecx, PM_BASE_DEFAULT
        mov     al, PIIX4_PMBASE
        call    pci_write
        mov     eax, PM_BASE_DEFAULT
.has_base:
        mov     [pm_base], eax
        mov     al, PIIX4_PMREGMISC
        call    pci_read
        or      eax, PMIOSE
        mov     ecx, eax
        mov     al, PIIX4_PMREGMISC
        jmp     pci_write

power_off:
        cli
        mov     edx, [pm_base]
        test    edx, edx
        jz      .debug_exit
        add     edx, PM1_CONTROL
        mov     eax, SLP_EN | SLP_TYP_OFF
        out     dx, ax
        mov     ecx, POWER_OFF_PATIENCE ; the power may go a moment later
.wait:
        in      al, PORT_B
        loop    .wait
.debug_exit:
        xor     eax, eax
        out     DEBUG_EXIT, al
        PRINT   "The machine stays on; halted.", 10
.halt:
        hlt
        jmp     .halt

reset:
        cli
        PRINT   10, "Reset.", 10
        OUTB    RESET_CONTROL, RESET_HARD
        OUTB    RESET_CONTROL, RESET_HARD | RESET_GO
        OUTB    PORT_92, 1
        OUTB    KBC_COMMAND, KBC_RESET
        lidt    [no_idt]                ; at last, a triple fault
        int3

        section .data
no_idt:         dw      0
                dd      0

        section .bss
        alignb  4
pm_base:        resd 1                  ; 0: none
