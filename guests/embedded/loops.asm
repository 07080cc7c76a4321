; The three loops and their clock, free of what runs them: the embedded guest includes them in every mode,
; the benchmark's native program in 32 and 64 bits.
;
; Who includes it defines LOW_BUFFER and LOW_RESULTS, offsets from the base given to LOOPS.

PASS_ITERATIONS equ     20000
BUFFER_SIZE     equ     0x4000

INTEGER_SUM     equ     0xC79012B2      ; what the loops leave in EDX
MEMORY_SUM      equ     0x6CD07B59
CALLS_SUM       equ     0x0BEBE911

LOOP_INTEGER    equ     0               ; offsets into the results
LOOP_MEMORY     equ     8
LOOP_CALLS      equ     16
RESULT_CYCLES   equ     0
RESULT_SUM      equ     4
RESULTS_SIZE    equ     24

; LOOPS base of the low segment as this mode addresses it, its name of BX
; Runs the three loops; uses EAX, BX, ECX, EDX.
%macro LOOPS 2
        TIME    %1 + LOW_RESULTS + LOOP_INTEGER
%%integer:
        imul    eax, eax, 1664525
        add     eax, 1013904223
        xor     edx, eax
        rol     edx, 5
        dec     ecx
        jnz     %%integer
        TIMED   %1 + LOW_RESULTS + LOOP_INTEGER

        xor     ebx, ebx
        TIME    %1 + LOW_RESULTS + LOOP_MEMORY
%%memory:
        mov     eax, [%2 + %1 + LOW_BUFFER]
        add     eax, ecx
        ror     eax, 3
        mov     [%2 + %1 + LOW_BUFFER], eax
        add     edx, eax
        add     ebx, 68
        and     ebx, BUFFER_SIZE - 4
        dec     ecx
        jnz     %%memory
        TIMED   %1 + LOW_RESULTS + LOOP_MEMORY

        TIME    %1 + LOW_RESULTS + LOOP_CALLS
%%calls:
        call    %%procedure
        dec     ecx
        jnz     %%calls
        TIMED   %1 + LOW_RESULTS + LOOP_CALLS
        jmp     %%done
%%procedure:
        push    %2
        mov     ebx, ecx
        add     edx, ebx
        pop     %2
        ret
%%done:
%endmacro

; Starts the clock and the registers of a loop.
%macro TIME 1
        rdtsc
        mov     [%1 + RESULT_CYCLES], eax
        mov     eax, 1
        mov     edx, 1
        mov     ecx, PASS_ITERATIONS
%endmacro

%macro TIMED 1
        mov     [%1 + RESULT_SUM], edx
        rdtsc
        sub     eax, [%1 + RESULT_CYCLES]
        mov     [%1 + RESULT_CYCLES], eax
%endmacro
