; COM1 and text.  The UART is a PC16550D at 3F8h, polled: a missing one costs a bounded wait a byte.
; Every routine keeps all registers.

COM1            equ     0x3F8
UART_DATA       equ     COM1            ; and DLL while LCR.DLAB is set
UART_IER        equ     COM1 + 1        ; and DLM
UART_FCR        equ     COM1 + 2
UART_LCR        equ     COM1 + 3
UART_MCR        equ     COM1 + 4
UART_LSR        equ     COM1 + 5

LCR_8N1         equ     0x03
LCR_DLAB        equ     0x80
FCR_ENABLE      equ     0x01
FCR_CLEAR       equ     0x06            ; both FIFOs
MCR_DTR_RTS     equ     0x03
MCR_OUT2        equ     0x08            ; connects INTR to the interrupt controller on a PC
LSR_DR          equ     0x01
LSR_THRE        equ     0x20
IER_ERBFI       equ     0x01

; PRINT "text", 10, …: the text follows the call.
%macro PRINT 1+
        call    print_inline
        db      %1, 0
%endmacro

; OUTB port, value
%macro OUTB 2
        mov     al, %2
        mov     dx, %1
        out     dx, al
%endmacro

        section .text
        bits    32

; 115 200 bit/s, 8N1, FIFOs on, interrupts off.
serial_init:
        OUTB    UART_IER, 0
        OUTB    UART_LCR, LCR_8N1 | LCR_DLAB
        OUTB    UART_DATA, 1            ; divisor 1
        OUTB    UART_IER, 0
        OUTB    UART_LCR, LCR_8N1
        OUTB    UART_FCR, FCR_ENABLE | FCR_CLEAR
        OUTB    UART_MCR, MCR_DTR_RTS | MCR_OUT2
        ret

; AL; a line feed gets its carriage return.
print_char:
        cmp     al, 10
        jne     .put
        push    eax
        mov     al, 13
        call    .put
        pop     eax
.put:
        push    eax
        push    ecx
        push    edx
        mov     dx, UART_LSR
        mov     ecx, 1 << 20
.busy:
        in      al, dx
        test    al, LSR_THRE
        loopz   .busy
        mov     dx, UART_DATA
        mov     al, [esp + 8]
        out     dx, al
        pop     edx
        pop     ecx
        pop     eax
        ret

; The zero-terminated string that follows the call.
print_inline:
        xchg    esi, [esp]
        call    print_string
        xchg    esi, [esp]
        ret

; ESI: a zero-terminated string.  Leaves ESI after its zero.
print_string:
        push    eax
.next:
        lodsb
        test    al, al
        jz      .done
        call    print_char
        jmp     .next
.done:
        pop     eax
        ret

; ESI: a zero-terminated string, padded with blanks to ECX columns.
print_padded:
        push    eax
        push    ecx
        push    esi
        mov     eax, esi
        call    print_string
        sub     eax, esi                ; -(length + 1)
        lea     ecx, [ecx + eax + 1]
        call    print_blanks
        pop     esi
        pop     ecx
        pop     eax
        ret

; ECX blanks; none if it is not positive.
print_blanks:
        push    eax
        push    ecx
        mov     al, " "
.next:
        dec     ecx
        js      .done
        call    print_char
        jmp     .next
.done:
        pop     ecx
        pop     eax
        ret

; EAX in decimal.
print_dec:
        push    ecx
        xor     ecx, ecx
        call    print_dec_wide
        pop     ecx
        ret

; EAX in decimal, right-aligned in ECX columns.
print_dec_wide:
        pushad
        mov     ebx, 10
        xor     esi, esi                ; digits on the stack
.divide:
        xor     edx, edx
        div     ebx
        push    edx
        inc     esi
        test    eax, eax
        jnz     .divide
        sub     ecx, esi
        call    print_blanks
.digit:
        pop     eax
        add     al, "0"
        call    print_char
        dec     esi
        jnz     .digit
        popad
        ret

; EAX hundredths, right-aligned in ECX columns: 1234 is 12.34.
print_hundredths:
        pushad
        xor     edx, edx
        mov     ebx, 100
        div     ebx
        sub     ecx, 3
        call    print_dec_wide
        mov     al, "."
        call    print_char
        mov     eax, edx
        aam
        add     ax, "00"
        xchg    al, ah
        call    print_char
        mov     al, ah
        call    print_char
        popad
        ret

; AL, AX or EAX in hexadecimal.
print_hex8:
        push    ecx
        mov     ecx, 2
        jmp     print_hex
print_hex16:
        push    ecx
        mov     ecx, 4
        jmp     print_hex
print_hex32:
        push    ecx
        mov     ecx, 8
print_hex:                              ; EAX, ECX digits; pops ECX
        push    eax
        push    ecx
        neg     ecx
        lea     ecx, [ecx * 4 + 32]
        shl     eax, cl
        pop     ecx
.digit:
        rol     eax, 4
        push    eax
        and     al, 0x0F
        cmp     al, 10
        sbb     al, 0x69
        das                             ; 0…15 to "0"…"F"
        call    print_char
        pop     eax
        loop    .digit
        pop     eax
        pop     ecx
        ret
