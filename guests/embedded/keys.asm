; Echoes what is typed on COM1.  Between keys the processor halts and the UART's interrupt (IRQ 4)
; wakes it.

CTRL_D          equ     4
BACKSPACE       equ     8
DELETE          equ     127

        section .text
        bits    32

echo_keys:
        PRINT   10, "Keys are echoed; q or Ctrl-D powers off, r resets.", 10
        OUTB    UART_IER, IER_ERBFI
        mov     al, 1 << IRQ_COM1
        call    irq_unmask
.wait:
        cli
        mov     dx, UART_LSR
        in      al, dx
        test    al, LSR_DR
        jnz     .key
        sti                             ; takes effect after HLT has begun: no key is missed
        hlt
        jmp     .wait
.key:
        mov     dx, UART_DATA
        in      al, dx
        cmp     al, "q"
        je      .power_off
        cmp     al, CTRL_D
        je      .power_off
        cmp     al, "r"
        je      reset
        cmp     al, 13
        je      .enter
        cmp     al, BACKSPACE
        je      .erase
        cmp     al, DELETE
        je      .erase
        call    print_char
        jmp     .wait
.enter:
        mov     al, 10
        call    print_char
        jmp     .wait
.erase:
        PRINT   BACKSPACE, " ", BACKSPACE
        jmp     .wait
.power_off:
        PRINT   10
        jmp     power_off
