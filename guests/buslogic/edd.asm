; The extensions of INT 13h: blocks by number (Enhanced Disk Drive Specification, T13 EDD-3).
;
; The subset for disks, and the one that tells about them.

VERSION         equ     0x30            ; EDD-3
SUBSETS         equ     0x0005          ; disk access; drive parameters

struc Packet                            ; at the caller's DS:SI
.size           resb    1
                resb    1
.count          resw    1
.buffer         resd    1               ; far; FFFF:FFFF: see below
.block          resq    1
.flat           resq    1               ; physical address, in packets of 24 bytes or more
endstruc

struc Parameters                        ; the answer of function 48h
.size           resw    1
.flags          resw    1
.cylinders      resd    1
.heads          resd    1
.sectors        resd    1
.blocks         resq    1
.block_size     resw    1
.end_1:                                 ; of version 1
.configuration  resd    1
.end_2:
.key            resw    1               ; where the drive is
.path_length    resb    1
                resb    1
                resw    1
.bus            resb    4
.interface      resb    8
.location       resb    8               ; bus, device, function
.device         resb    16              ; target, LUN
                resb    1
.checksum       resb    1
.end_3:
endstruc

HANDLES_BOUNDARIES equ  0x01            ; flags
CHS_VALID       equ     0x02
REMOVABLE       equ     0x04
VERIFIES_WRITES equ     0x08
PATH_KEY        equ     0xBEDD

extensions:
        mov     ah, BAD_COMMAND
        cmp     word [CALLER(ebx)], 0x55AA
        jne     .end
        mov     word [CALLER(ebx)], 0xAA55
        mov     word [CALLER(ecx)], SUBSETS
        mov     byte [CALLER(eax) + 1], VERSION
        mov     ah, 0
.end:
        ret

read_blocks:
        mov     cx, READ | DATA_IN << 8
        jmp     move_blocks

; AL = 0 or 1: written; 2: and verified.
write_blocks:
        mov     ah, BAD_COMMAND
        mov     cx, WRITE | DATA_OUT << 8
        cmp     al, 2
        jb      move_blocks
        mov     cl, WRITE_VERIFY
        je      move_blocks
        ret

; CL = operation code, CH = direction.
move_blocks:
        mov     di, cx
        call    packet
        jc      .end
        jcxz    .end
        mov     ax, di
        call    transfer
        jnc     .end
        mov     word [es:si + Packet.count], 0
.end:
        ret

verify_blocks:
        call    packet
        jc      .end
        jcxz    .end
        mov     al, VERIFY
        call    without_data
        jnc     .end
        mov     word [es:si + Packet.count], 0
.end:
        ret

seek_block:
        call    packet
        jc      .end
        mov     al, SEEK
        call    without_data
.end:
        ret

; The caller's packet ES:SI: EBX = first block, CX = blocks, EDX = address of the buffer.  AH = status, CF unless 0.
packet:
        mov     es, [CALLER(ds)]
        mov     si, [CALLER(esi)]
        mov     cx, [es:si + Packet.count]
        mov     ebx, [es:si + Packet.block]
        mov     ah, BAD_COMMAND
        cmp     byte [es:si + Packet.size], Packet.flat
        jb      .bad
        mov     ah, NO_SUCH_SECTOR
        cmp     dword [es:si + Packet.block + 4], 0
        jne     .bad
        cmp     dword [es:si + Packet.buffer], -1
        je      .flat
        movzx   edx, word [es:si + Packet.buffer + 2]
        shl     edx, 4
        movzx   eax, word [es:si + Packet.buffer]
        add     edx, eax
.good:
        mov     ah, 0
        clc
        ret
.flat:
        mov     edx, [es:si + Packet.flat]
        mov     ah, BAD_COMMAND
        cmp     byte [es:si + Packet.size], Packet_size
        jb      .bad
        cmp     dword [es:si + Packet.flat + 4], 0
        je      .good
.bad:
        stc
        ret

; What there is room for, at the caller's DS:SI.
drive_parameters:
        mov     es, [CALLER(ds)]
        mov     di, [CALLER(esi)]
        mov     bx, [es:di + Parameters.size]
        mov     ah, BAD_COMMAND
        cmp     bx, Parameters.end_1
        jb      .end
        mov     word [es:di + Parameters.size], Parameters.end_1
        call    tell_size
        jc      .end
        cmp     bx, Parameters.end_2
        jb      .good
        mov     word [es:di + Parameters.size], Parameters.end_2
        mov     dword [es:di + Parameters.configuration], -1
        cmp     bx, Parameters.end_3
        jb      .good
        mov     word [es:di + Parameters.size], Parameters.end_3
        call    tell_path
.good:
        mov     ah, 0
.end:
        ret

; Blocks and geometry; a CD has none, and is asked.  CF: there is none, AH = status.
tell_size:
        push    bx
        mov     si, [FIELD(unit)]
        movzx   eax, word [si + Unit.heads]
        mov     [es:di + Parameters.heads], eax
        movzx   ecx, word [si + Unit.sectors]
        mov     [es:di + Parameters.sectors], ecx
        mov     edx, [si + Unit.block_bytes]
        mov     [es:di + Parameters.block_size], dx
        cmp     dx, CD_BLOCK
        je      .cd
        mov     word [es:di + Parameters.flags], HANDLES_BOUNDARIES | CHS_VALID | VERIFIES_WRITES
        imul    ecx, eax
        mov     eax, [si + Unit.blocks]
        push    eax
        xor     edx, edx
        div     ecx
        mov     [es:di + Parameters.cylinders], eax
        pop     eax
        jmp     .blocks
.cd:
        mov     word [es:di + Parameters.flags], HANDLES_BOUNDARIES | REMOVABLE
        mov     dword [es:di + Parameters.cylinders], 0
        push    si
        call    read_capacity
        pop     si
        jc      .end
.blocks:
        mov     [es:di + Parameters.blocks], eax
        mov     dword [es:di + Parameters.blocks + 4], 0
        clc
.end:
        pop     bx
        ret

; PCI bus, device and function, SCSI target, with a checksum.
tell_path:
        lea     bx, [di + Parameters.key]
        mov     cx, Parameters.end_3 - Parameters.key
.clear:
        mov     byte [es:bx], 0
        inc     bx
        loop    .clear
        mov     word [es:di + Parameters.key], PATH_KEY
        mov     byte [es:di + Parameters.path_length], Parameters.end_3 - Parameters.key
        mov     dword [es:di + Parameters.bus], "PCI "
        mov     dword [es:di + Parameters.interface], "SCSI"
        mov     dword [es:di + Parameters.interface + 4], "    "
        mov     ax, [location]
        mov     [es:di + Parameters.location], ah
        mov     ah, al
        shr     al, 3
        and     ah, 7
        mov     [es:di + Parameters.location + 1], ax
        mov     al, [si + Unit.target]
        mov     [es:di + Parameters.device], al
        lea     bx, [di + Parameters.key]
        mov     cx, Parameters.end_3 - Parameters.key
        mov     al, 0
.sum:
        sub     al, [es:bx]
        inc     bx
        loop    .sum
        mov     [es:di + Parameters.checksum], al
        ret

; There is nothing to set (prefetch, PIO modes, DMA), and no other drives that it would be set for.
hardware:
        cmp     al, 6
        mov     ah, BAD_COMMAND
        ja      .end
        mov     byte [CALLER(eax)], 0
        mov     ah, 0
.end:
        ret
