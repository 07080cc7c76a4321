; A boot sector that redraws the whole frame buffer of VBE mode VBE, LINES lines of BYTES bytes, for ever:
; every PERIOD_US microseconds in one colour more.  Says "K" on COM1 when it begins.
bits 16
org 7C00h

start:  cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 7C00h
        cld
        mov ax, 4F01h                   ; where is it?
        mov cx, VBE
        mov di, info
        int 10h
        mov ax, 4F02h
        mov bx, 4000h | VBE
        int 10h
        lgdt [table]                    ; real mode with 4 GiB of ES
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov bx, 8
        mov es, bx
        and al, 0FEh
        mov cr0, eax
        sti
        mov dx, 3F8h
        mov al, 'K'
        out dx, al
        xor ebx, ebx
frame:  mov dx, 3F8h
        mov al, "."                     ; each frame is told
        out dx, al
        mov edi, [info + 40]
        mov eax, ebx
        mov ecx, LINES * BYTES / 4
        a32 rep stosd
        add ebx, 010203h
        push es
        xor ax, ax
        mov es, ax
        mov ah, 86h                     ; wait
        mov cx, PERIOD_US >> 16
        mov dx, PERIOD_US & 0FFFFh
        int 15h
        cli                             ; the BIOS may have loaded ES
        mov eax, cr0
        or al, 1
        mov cr0, eax
        mov cx, 8
        mov es, cx
        and al, 0FEh
        mov cr0, eax
        sti
        add sp, 2
        jmp frame

table:  dw 15
        dd gdt
gdt:    dq 0
        dq 00CF93000000FFFFh

        times 510 - ($ - $$) db 0
        dw 0AA55h
info    equ 8000h
