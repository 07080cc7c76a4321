; Interrupts: the protected-mode IDT, the 8259 pair, the 8254's counter 0, and what exceptions do.
;
; Vectors 0–1Fh are exceptions, 20h–2Fh the two controllers, 30h the way back to ring 0 (modes.asm).
; An exception that nobody asked for is reported and ends the guest.

PIC1_COMMAND    equ     0x20            ; Intel 8259A; A0 = 0
PIC1_DATA       equ     0x21            ; A0 = 1
PIC2_COMMAND    equ     0xA0
PIC2_DATA       equ     0xA1
PIC_ICW1        equ     0x11            ; edge triggered, cascade, ICW4 follows
PIC_ICW4        equ     0x01            ; 8086 mode
PIC_EOI         equ     0x20

PIT_DATA0       equ     0x40            ; Intel 8254
PIT_DATA2       equ     0x42
PIT_CONTROL     equ     0x43
PIT_COUNTER0    equ     0 << 6
PIT_COUNTER2    equ     2 << 6
PIT_LATCH       equ     0 << 4
PIT_LOW_HIGH    equ     3 << 4
PIT_MODE0       equ     0 << 1          ; interrupt on terminal count
PIT_MODE2       equ     2 << 1          ; rate generator

PORT_B          equ     0x61
PORT_B_GATE2    equ     0x01
PORT_B_SPEAKER  equ     0x02
PORT_B_OUT2     equ     0x20

IRQ_TIMER       equ     0
IRQ_CASCADE     equ     2
IRQ_COM1        equ     4

VECTOR_IRQ      equ     0x20
VECTOR_LEAVE    equ     0x30
VECTORS         equ     0x31

GATE_INTERRUPT  equ     0x8E00          ; present, DPL 0, 32- or 64-bit interrupt gate
GATE_DPL3       equ     0x6000

HAS_ERROR_CODE  equ     0x60227D00      ; exceptions 8, 10–14, 17, 21, 29, 30 push one

        section .text
        bits    32

interrupts_init:
        call    idt_build
        lidt    [idt_pointer]
        OUTB    PIC1_COMMAND, PIC_ICW1
        OUTB    PIC2_COMMAND, PIC_ICW1
        OUTB    PIC1_DATA, VECTOR_IRQ
        OUTB    PIC2_DATA, VECTOR_IRQ + 8
        OUTB    PIC1_DATA, 1 << IRQ_CASCADE
        OUTB    PIC2_DATA, IRQ_CASCADE
        OUTB    PIC1_DATA, PIC_ICW4
        OUTB    PIC2_DATA, PIC_ICW4
        OUTB    PIC1_DATA, 0xFF         ; all masked
        OUTB    PIC2_DATA, 0xFF
        ret

idt_build:
        mov     edi, idt
        mov     eax, exception_entries
        mov     ebx, 5                  ; bytes of an entry
        mov     ecx, 32
        mov     edx, GATE_INTERRUPT
        call    .gates
        mov     eax, irq_unexpected
        xor     ebx, ebx
        mov     ecx, 16
        call    .gates
        mov     eax, leave
        mov     edx, GATE_INTERRUPT | GATE_DPL3
        mov     ecx, 1
        call    .gates
        mov     ecx, IRQ_TIMER
        mov     eax, irq_timer
        call    irq_set_handler
        mov     ecx, IRQ_COM1
        mov     eax, irq_com1
        jmp     irq_set_handler

; ECX gates from EDI on: handlers EAX, EAX + EBX, …; EDX: their attributes.
.gates:
        push    eax
        mov     [edi], ax
        mov     word [edi + 2], CODE32
        mov     [edi + 4], dx
        shr     eax, 16
        mov     [edi + 6], ax
        pop     eax
        add     eax, ebx
        add     edi, 8
        loop    .gates
        ret

; ECX: request line, EAX: handler.
irq_set_handler:
        mov     [idt + (VECTOR_IRQ + ecx) * 8], ax
        shr     eax, 16
        mov     [idt + (VECTOR_IRQ + ecx) * 8 + 6], ax
        ret

; AL: the request lines 0–7 to leave open.
irq_unmask:
        not     al
        out     PIC1_DATA, al
        ret

; Counter 0 as rate generator with AX as divisor.
pit_start:
        push    eax
        mov     al, PIT_COUNTER0 | PIT_LOW_HIGH | PIT_MODE2
        out     PIT_CONTROL, al
        pop     eax
        out     PIT_DATA0, al
        mov     al, ah
        out     PIT_DATA0, al
        ret

; Nothing but a spurious request (IRQ 7, 15) gets here, and that one wants no EOI.
irq_unexpected:
        inc     dword [irq_unexpected_count]
        iretd

; The sender has served its purpose by ending HLT; keys.asm reads the UART.
irq_com1:
        push    eax
        mov     al, PIC_EOI
        out     PIC1_COMMAND, al
        pop     eax
        iretd

; --- exceptions ---

; The return address of the call tells the vector.
exception_entries:
%rep 32
        call    strict near exception
%endrep

exception:
        pop     ebx
        sub     ebx, exception_entries + 5
        mov     eax, ebx
        xor     edx, edx
        mov     ecx, 5
        div     ecx
        mov     ebx, eax
        xor     ebp, ebp                ; error code, if any
        mov     ecx, HAS_ERROR_CODE
        bt      ecx, ebx
        jnc     .frame
        pop     ebp
.frame:
        pop     esi                     ; EIP
        pop     edi                     ; CS
        mov     eax, DATA32
        mov     ds, eax
        mov     es, eax
        call    exception_report
        jmp     power_off

; EBX: vector, EBP: error code, EDI:ESI: where.
exception_report:
        PRINT   10, "Exception "
        mov     eax, ebx
        call    print_dec
        PRINT   ", error code "
        mov     eax, ebp
        call    print_hex32
        PRINT   "h, at "
        mov     eax, edi
        call    print_hex16
        PRINT   ":"
        mov     eax, esi
        call    print_hex32
        PRINT   ", CR2 "
        mov     eax, cr2
        call    print_hex32
        PRINT   10, "The guest FAILED.", 10
        ret

        section .data
        align   4
                dw      0
idt_pointer:    dw      VECTORS * 8 - 1
                dd      idt

        section .bss
        alignb  8
idt:                    resq VECTORS
irq_unexpected_count:   resd 1
