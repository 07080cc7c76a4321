; The embedded guest's loops as a function of a host program: void run_loops(void).
; nasm -f elf32 or elf64; linked without PIE, so that `low` has an address of 32 bits, as in the guest.

LOW_BUFFER      equ     0
LOW_RESULTS     equ     0x4000

%include "loops.asm"

        global  run_loops, low
        section .text
%if __?BITS?__ == 64
run_loops:
        push    rbx
        LOOPS   low, rbx
        pop     rbx
        ret
%else
run_loops:
        push    ebx
        LOOPS   low, ebx
        pop     ebx
        ret
%endif

        section .bss    align=4096
low:            resb LOW_RESULTS + RESULTS_SIZE

        section .note.GNU-stack noalloc noexec nowrite progbits
