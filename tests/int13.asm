; A boot sector that calls INT 13h for a test: at each byte on COM1 with the registers it finds at REGISTERS,
; where it then puts what came back, and answers with a byte.

        bits    16
        org     0x7C00

COM1            equ     0x3F8
LINE_CONTROL    equ     3
LINE_STATUS     equ     5
REGISTERS       equ     0x600

struc Registers
.eax            resd    1
.ebx            resd    1
.ecx            resd    1
.edx            resd    1
.esi            resd    1
.edi            resd    1
.ebp            resd    1
.ds             resw    1
.es             resw    1
.flags          resw    1
.sp             resw    1
endstruc
%define REGISTER(name) REGISTERS + Registers. %+ name

start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7C00
        mov     [REGISTER(edx)], dl
        mov     dx, COM1 + LINE_CONTROL
        mov     al, 0x03                ; eight bits
        out     dx, al
        inc     dx
        out     dx, al                  ; modem control: DTR, RTS
        jmp     answer
wait_for_byte:
        mov     dx, COM1 + LINE_STATUS
        in      al, dx
        test    al, 1
        jz      wait_for_byte
        mov     dx, COM1
        in      al, dx
        mov     eax, [REGISTER(eax)]
        mov     ebx, [REGISTER(ebx)]
        mov     ecx, [REGISTER(ecx)]
        mov     edx, [REGISTER(edx)]
        mov     esi, [REGISTER(esi)]
        mov     edi, [REGISTER(edi)]
        mov     ebp, [REGISTER(ebp)]
        mov     es, [REGISTER(es)]
        mov     ds, [REGISTER(ds)]
        int     0x13
        push    ds
        pushf
        push    0
        pop     ds
        pop     word [REGISTER(flags)]
        pop     word [REGISTER(ds)]
        mov     [REGISTER(sp)], sp
        mov     [REGISTER(es)], es
        mov     [REGISTER(eax)], eax
        mov     [REGISTER(ebx)], ebx
        mov     [REGISTER(ecx)], ecx
        mov     [REGISTER(edx)], edx
        mov     [REGISTER(esi)], esi
        mov     [REGISTER(edi)], edi
        mov     [REGISTER(ebp)], ebp
answer:
        mov     dx, COM1
        mov     al, "!"
        out     dx, al
        jmp     wait_for_byte

        times   510 - ($ - start) db 0
        dw      0xAA55
