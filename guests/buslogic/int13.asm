; INT 13h for our drives; what is not for them goes on to who handled it before.
;
; IBM PC/AT Technical Reference (functions 00h–15h), and edd.asm.  The caller's registers are at SS:BP, as
; `Caller` has them, the frame of adapter.asm below.

struc Caller
.edi            resd    1
.esi            resd    1
.ebp            resd    1
                resd    1
.ebx            resd    1
.edx            resd    1
.ecx            resd    1
.eax            resd    1
.es             resw    1
.ds             resw    1
                resd    1               ; where it was called
.flags          resw    1
endstruc
%define CALLER(name) bp + Caller. %+ name

CARRY           equ     1
TRANSFER_MAX    equ     128             ; blocks of one function 02h–04h: what a segment holds

FIXED_DISK      equ     0x03            ; of function 15h

int13:
        push    ds
        push    es
        pushad
        mov     si, units
.unit:
        cmp     dl, [cs:si + Unit.drive]
        je      .ours
        add     si, Unit_size
        cmp     si, units_end
        jb      .unit
.other:
        popad
        pop     es
        pop     ds
        jmp     far [cs:previous]
.ours:
        test    dl, dl                  ; drive 0 is a diskette, and units that are no drives have 0
        jns     .other
        mov     bp, sp
        sub     sp, FRAME
        sti
        cld
        push    cs
        pop     ds
        mov     [FIELD(unit)], si
        mov     dl, [si + Unit.target]
        mov     [FIELD(target)], dl
        mov     bx, disk_functions
        mov     cx, disk_functions_end
        cmp     dword [si + Unit.block_bytes], CD_BLOCK
        jne     .function
        mov     bx, cd_functions
        mov     cx, cd_functions_end
.function:
        cmp     ah, [bx]
        je      .found
        add     bx, 3
        cmp     bx, cx
        jb      .function
        mov     ah, BAD_COMMAND
        jmp     .done
.found:
        mov     byte [CALLER(eax) + 1], 0
        call    [bx + 1]
.done:
        push    BDA
        pop     es
        mov     [es:BDA_STATUS], ah
        and     byte [CALLER(flags)], ~CARRY
        or      ah, ah
        jz      .good
        mov     [CALLER(eax) + 1], ah
        or      byte [CALLER(flags)], CARRY
.good:
        mov     sp, bp
        popad
        pop     es
        pop     ds
        iret

; Each gets the caller's AX, DS = the ROM and [unit]; it returns AH = status.  If that is 0, the caller's AH is
; what the function put there, or 0.
%macro FUNCTION 2
                db      %1
                dw      %2
%endmacro
disk_functions:
                FUNCTION 0x02, read_sectors
                FUNCTION 0x03, write_sectors
                FUNCTION 0x04, verify_sectors
                FUNCTION 0x08, parameters
                FUNCTION 0x09, test_ready       ; set parameters: they are set
                FUNCTION 0x0C, seek_cylinder
                FUNCTION 0x0D, test_ready       ; reset
                FUNCTION 0x11, test_ready       ; recalibrate
                FUNCTION 0x14, test_ready       ; diagnostics of the adapter
                FUNCTION 0x15, drive_type
                FUNCTION 0x43, write_blocks
                FUNCTION 0x44, verify_blocks
                FUNCTION 0x4E, hardware
cd_functions:                                   ; from here on, those of both
                FUNCTION 0x00, test_ready       ; reset
                FUNCTION 0x01, last_status
                FUNCTION 0x10, test_ready
                FUNCTION 0x41, extensions
                FUNCTION 0x42, read_blocks
                FUNCTION 0x47, seek_block
                FUNCTION 0x48, drive_parameters
disk_functions_end:
                FUNCTION 0x4B, emulation
cd_functions_end:

; AH = 0, or why the drive is not ready.
test_ready:
        mov     al, TEST_UNIT_READY
        call    begin_cdb
        jmp     execute

last_status:
        push    BDA
        pop     es
        mov     ah, [es:BDA_STATUS]
        ret

read_sectors:
        mov     cx, READ | DATA_IN << 8
        jmp     move_sectors

write_sectors:
        mov     cx, WRITE | DATA_OUT << 8
; AL sectors between the caller's ES:BX and where CHS points to; CL = operation code, CH = direction.
move_sectors:
        mov     di, cx
        call    locate
        jc      .failed
        movzx   edx, word [CALLER(es)]
        shl     edx, 4
        movzx   eax, word [CALLER(ebx)]
        add     edx, eax
        mov     ax, di
        call    transfer
        jnc     .end
.failed:
        mov     byte [CALLER(eax)], 0   ; none moved
.end:
        ret

verify_sectors:
        call    locate
        jc      .end
        mov     al, VERIFY
        call    without_data
.end:
        ret

seek_cylinder:
        mov     al, 1
        call    locate
        jc      .end
        mov     al, SEEK
        call    without_data
.end:
        ret

parameters:
        mov     si, [FIELD(unit)]
        mov     byte [CALLER(eax)], 0
        mov     byte [CALLER(ebx)], 0   ; not a diskette
        mov     ax, [si + Unit.cylinders]
        dec     ax
        shl     ah, 6
        or      ah, [si + Unit.sectors]
        xchg    al, ah
        mov     [CALLER(ecx)], ax
        mov     ah, [si + Unit.heads]
        dec     ah
        push    BDA
        pop     es
        mov     al, [es:BDA_DISKS]
        mov     [CALLER(edx)], ax
        mov     ah, 0
        ret

drive_type:
        mov     si, [FIELD(unit)]
        mov     ax, [si + Unit.blocks]
        mov     [CALLER(edx)], ax
        mov     ax, [si + Unit.blocks + 2]
        mov     [CALLER(ecx)], ax
        mov     byte [CALLER(eax) + 1], FIXED_DISK
        mov     ah, 0
        ret

; AL sectors from the caller's CHS on: EBX = first block, CX = blocks.  CF: not there, AH = status.
locate:
        push    edi
        mov     ah, 0
        cmp     ax, TRANSFER_MAX
        ja      .bad
        or      al, al
        jz      .bad
        push    ax
        call    .block
        pop     cx
        jnc     .end
.bad:
        mov     ah, BAD_COMMAND
        stc
.end:
        pop     edi
        ret
.block:
        mov     si, [FIELD(unit)]
        mov     cx, [CALLER(ecx)]
        movzx   edi, cl
        and     di, 0x3F
        dec     di                      ; sectors count from 1
        cmp     di, [si + Unit.sectors]
        jae     .no_such
        movzx   ebx, byte [CALLER(edx) + 1]
        cmp     bx, [si + Unit.heads]
        jae     .no_such
        mov     al, ch
        mov     ah, cl
        shr     ah, 6
        cmp     ax, [si + Unit.cylinders]
        jae     .no_such
        movzx   eax, ax
        movzx   ecx, word [si + Unit.heads]
        imul    eax, ecx
        add     ebx, eax
        movzx   ecx, word [si + Unit.sectors]
        imul    ebx, ecx
        add     ebx, edi
        clc
        ret
.no_such:
        stc
        ret

; Moves CX blocks from EBX on; AL = operation code, AH = direction, EDX = address.  AH = status, CF unless 0.
transfer:
        call    aim
        mov     [FIELD(direction)], ah
        mov     [FIELD(data)], edx
        movzx   ecx, cx
        push    si
        mov     si, [FIELD(unit)]
        imul    ecx, [si + Unit.block_bytes]
        pop     si
        mov     [FIELD(length)], ecx
        call    execute
        jc      .end
        cmp     dword [FIELD(data_length)], 0
        je      .end
        mov     ah, ADAPTER_FAILED      ; less than all moved
        stc
.end:
        ret

; The same for operations that have no data.
without_data:
        call    aim
        jmp     execute

; The CDB with the operation code AL on CX blocks from EBX on.
aim:
        call    begin_cdb
        bswap   ebx
        mov     [FIELD(cdb) + 2], ebx
        bswap   ebx
        xchg    cl, ch
        mov     [FIELD(cdb) + 7], cx
        xchg    cl, ch
        ret
