; Cylinders, heads and sectors of disks that count blocks.
;
; Disks that were partitioned elsewhere keep the geometry they were partitioned with: an entry of the partition
; table tells its end twice, as a block number and in cylinders, heads and sectors.  If a partition ends where
; a cylinder does, its last head and sector are the disk's, and the two agree.  All others get what BusLogic's
; BIOS gives a disk of that size with extended translation: 64 × 32, 128 × 32 from 1 GiB on, 255 × 63 from 2.

MBR_SIGNATURE   equ     510
MBR_ENTRIES     equ     446
GIB_BLOCKS      equ     1 << 21

struc Partition
                resb    1
                resb    3
.type           resb    1
.end_head       resb    1
.end_sector     resb    1               ; and bits 8 and 9 of the cylinder, at 6 and 7
.end_cylinder   resb    1
.first          resd    1
.blocks         resd    1
endstruc

; Sets the unit's heads, sectors and cylinders; its blocks are known.
find_geometry:
        mov     si, [FIELD(unit)]
        call    geometry_by_size
        call    geometry_by_partitions
        mov     si, [FIELD(unit)]
        movzx   eax, word [si + Unit.heads]
        mul     word [si + Unit.sectors]
        movzx   ecx, ax
        mov     eax, [si + Unit.blocks]
        xor     edx, edx
        div     ecx
        cmp     eax, 1024
        jbe     .set
        mov     eax, 1024
.set:
        or      eax, eax
        jnz     .some
        inc     eax
.some:
        mov     [si + Unit.cylinders], ax
        ret

geometry_by_size:
        mov     ecx, 64 | 32 << 16
        mov     eax, [si + Unit.blocks]
        cmp     eax, GIB_BLOCKS
        jb      .set
        mov     cx, 128
        cmp     eax, 2 * GIB_BLOCKS
        jb      .set
        mov     ecx, 255 | 63 << 16
.set:
        mov     [si + Unit.heads], ecx  ; and sectors, behind
        ret

geometry_by_partitions:
        mov     al, READ
        call    begin_cdb
        mov     byte [FIELD(cdb) + 8], 1
        mov     byte [FIELD(direction)], DATA_IN
        mov     word [FIELD(length)], BLOCK
        call    buffer
        call    execute
        jc      .end
        cmp     word [es:di + MBR_SIGNATURE], 0xAA55
        jne     .end
        add     di, MBR_ENTRIES
        mov     cx, 4
.entry:
        cmp     byte [es:di + Partition.type], 0
        je      .next
        call    partition_agrees
        je      .found
.next:
        add     di, Partition_size
        loop    .entry
        ret
.found:
        mov     si, [FIELD(unit)]
        movzx   ax, byte [es:di + Partition.end_head]
        inc     ax
        mov     [si + Unit.heads], ax
        mov     al, [es:di + Partition.end_sector]
        and     ax, 0x3F
        mov     [si + Unit.sectors], ax
.end:
        ret

; ZF if the partition ES:DI ends at the end of a cylinder, and at the block that it tells.
partition_agrees:
        push    cx
        movzx   eax, byte [es:di + Partition.end_sector]
        mov     edx, eax
        and     al, 0x3F                ; sectors; without any, nothing agrees
        jz      .not
        shl     edx, 2
        and     dh, 0x03
        mov     dl, [es:di + Partition.end_cylinder]
        inc     dx                      ; cylinders up to the end
        movzx   ecx, byte [es:di + Partition.end_head]
        cmp     cl, 255                 ; heads are told in a byte
        je      .not
        inc     cx
        imul    eax, ecx
        imul    eax, edx
        mov     edx, [es:di + Partition.first]
        add     edx, [es:di + Partition.blocks]
        cmp     eax, edx
        pop     cx
        ret
.not:
        or      cl, 1                   ; ZF is off
        pop     cx
        ret
