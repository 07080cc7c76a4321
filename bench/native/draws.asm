; A guest that draws a number of four hexadecimal digits in the upper left corner of the text screen at a fixed
; rate, 1 at first, and says so on COM1 at once.  Multiboot; assembled with -DTSC_PER_DRAW=…

bits 32
org 0x100020                            ; behind the header that ring3.testing.multiboot makes

TEXT equ 0xB8000
COM1 equ 0x3F8

start:
    xor ebp, ebp
    rdtsc
    mov esi, eax                        ; when the next one is due (the TSC's low half)
    add esi, TSC_PER_DRAW
wait_for_it:
    pause
    rdtsc
    sub eax, esi
    js wait_for_it
    add esi, TSC_PER_DRAW
    inc ebp
    mov ebx, ebp
    mov edi, TEXT
    mov ecx, 4
digit:
    rol bx, 4
    mov al, bl
    and al, 15
    cmp al, 10
    sbb al, 0x69                        ; with DAS: 0 to 9, A to F
    das
    mov ah, 7
    stosw
    loop digit
    mov dx, COM1
    mov al, 'd'
    out dx, al
    jmp wait_for_it
