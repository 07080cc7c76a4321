; Three loops, timed by the time-stamp counter in every mode.
;
; The loops are the same text in each operand size, so their checksums are the same in every mode, and
; they are known: a mode whose sums differ FAILED.  A pass is PASS_ITERATIONS of each loop; passes go on
; for MODE_TIME_MS and the shortest counts.
;   integer  multiply, add, exclusive or, rotate: a chain of dependent registers
;   memory   load, change and store back, over a buffer of 16 KiB
;   calls    a near call whose procedure pushes and pops

%include "loops.asm"

MODE_TIME_MS    equ     20
PASSES_MAX      equ     100

COLUMN          equ     10              ; width of a printed figure
NAME_COLUMN     equ     34

        section .low16
        bits    16
bench16:
        call    loops16
        int     VECTOR_LEAVE
loops16:
        LOOPS   0, bx
        ret

        section .text
        bits    32
bench32:
        LOOPS   LOW_BASE, ebx
        int     VECTOR_LEAVE

        bits    64
bench64:
        LOOPS   LOW_BASE, rbx
        int     VECTOR_LEAVE

        bits    32

; Every mode the processor has, one line each.
bench_modes:
        PRINT   10, "loops, ns an iteration                integer    memory     calls", 10
        cmp     dword [tsc_khz], 0
        jne     .timed
        PRINT   "  not timed without a time-stamp counter", 10
        ret
.timed:
        mov     ebx, mode_table
.mode:
        mov     eax, [ebx]
        test    eax, eax
        jz      .done
        call    mode_supported
        jc      .next
        call    bench_mode
        call    report_mode
.next:
        lea     esi, [ebx + 8]          ; the next entry follows the name
.name:
        lodsb
        test    al, al
        jnz     .name
        mov     ebx, esi
        jmp     .mode
.done:
        ret

; EBX: entry of mode_table.  CF if the processor lacks what it needs.
mode_supported:
        mov     eax, [ebx + 4]
        mov     ecx, [cpuid_edx1]
        and     ecx, CPUID_EDX1_PSE
        mov     edx, [cpuid_edx_ext]
        and     edx, CPUID_EXT_LM
        or      ecx, edx
        not     ecx
        test    eax, ecx
        jz      .yes
        stc
.yes:
        ret

; EBX: entry of mode_table.  Leaves the least cycles and the sums in `best`.
bench_mode:
        mov     edi, best
        mov     ecx, RESULTS_SIZE / 4
        mov     eax, -1
        rep     stosd
        mov     eax, [tsc_khz]
        mov     ecx, MODE_TIME_MS
        mul     ecx
        mov     [cycles_left], eax
        mov     ebp, PASSES_MAX
.pass:
        xor     eax, eax
        mov     edi, LOW_BASE + LOW_BUFFER
        mov     ecx, BUFFER_SIZE / 4
        rep     stosd
        call    [ebx]
        call    keep_best
        jc      .done
        dec     ebp
        jnz     .pass
.done:
        ret

; Takes over the results of a pass.  CF when the mode's time is used up.
keep_best:
        xor     esi, esi
.loop:
        mov     eax, [LOW_BASE + LOW_RESULTS + esi + RESULT_CYCLES]
        cmp     eax, [best + esi + RESULT_CYCLES]
        jae     .sum
        mov     [best + esi + RESULT_CYCLES], eax
.sum:
        mov     edx, [LOW_BASE + LOW_RESULTS + esi + RESULT_SUM]
        mov     [best + esi + RESULT_SUM], edx
        sub     [cycles_left], eax
        jnc     .next
        mov     dword [cycles_left], 0  ; a slow processor: the pass still counts in full
.next:
        add     esi, 8
        cmp     esi, RESULTS_SIZE
        jb      .loop
        cmp     dword [cycles_left], 1
        ret

; EBX: entry of mode_table.
report_mode:
        PRINT   "  "
        lea     esi, [ebx + 8]
        mov     ecx, NAME_COLUMN
        call    print_padded
        xor     esi, esi
.loop:
        mov     eax, [best + esi + RESULT_CYCLES]
        mov     ecx, 100000000 / PASS_ITERATIONS        ; kHz and ms to hundredths of a ns
        mul     ecx
        cmp     edx, [tsc_khz]
        jae     .next                   ; absurd: no figure
        div     dword [tsc_khz]
        mov     ecx, COLUMN
        call    print_hundredths
.next:
        add     esi, 8
        cmp     esi, RESULTS_SIZE
        jb      .loop
        cmp     dword [best + LOOP_INTEGER + RESULT_SUM], INTEGER_SUM
        jne     .failed
        cmp     dword [best + LOOP_MEMORY + RESULT_SUM], MEMORY_SUM
        jne     .failed
        cmp     dword [best + LOOP_CALLS + RESULT_SUM], CALLS_SUM
        je      report_ok
.failed:
        jmp     report_failed

        section .data
; routine, CPUID bits needed (leaf 1 EDX and 80000001h EDX have these at different places), name
%macro MODE 3
        dd      %1, %2
        db      %3, 0
%endmacro
mode_table:
        MODE    enter_real, 0, "real mode"
        MODE    enter_v86, 0, "virtual-8086 mode"
        MODE    enter_ring0_16, 0, "16-bit protected mode, ring 0"
        MODE    enter_ring3_16, 0, "16-bit protected mode, ring 3"
        MODE    enter_ring0_32, 0, "32-bit protected mode, ring 0"
        MODE    enter_ring3_32, 0, "32-bit protected mode, ring 3"
        MODE    enter_ring3_paged, CPUID_EDX1_PSE, "32-bit with paging, ring 3"
        MODE    enter_compatibility, CPUID_EXT_LM, "compatibility mode, ring 3"
        MODE    enter_ring0_64, CPUID_EXT_LM, "64-bit mode, ring 0"
        MODE    enter_ring3_64, CPUID_EXT_LM, "64-bit mode, ring 3"
        dd      0

        section .bss
        alignb  4
best:           resb RESULTS_SIZE
cycles_left:    resd 1
