; The report of the machine: what the boot loader, CPUID, the buses and the chips say.

PCI_ADDRESS     equ     0xCF8           ; configuration mechanism #1, PCI 2.1 §3.7.4
PCI_DATA        equ     0xCFC
PCI_ENABLE      equ     1 << 31

RTC_INDEX       equ     0x70            ; MC146818
RTC_DATA        equ     0x71
RTC_STATUS_A    equ     0x0A
RTC_STATUS_B    equ     0x0B
RTC_STATUS_D    equ     0x0D
RTC_UIP         equ     0x80            ; A: an update is in progress
RTC_DM          equ     0x04            ; B: binary, not BCD
RTC_VRT         equ     0x80            ; D: time is valid

IA32_APIC_BASE  equ     0x1B
APIC_ID         equ     0x20
APIC_VERSION    equ     0x30
IOAPIC_BASE     equ     0xFEC00000
IOAPIC_WINDOW   equ     0x10
HPET_BASE       equ     0xFED00000

CPUID_EDX1_TSC  equ     1 << 4
CPUID_EDX1_PSE  equ     1 << 3
CPUID_EDX1_APIC equ     1 << 9
CPUID_EXT_LM    equ     1 << 29

MAX_MAP_ENTRIES equ     64              ; of a loader's memory map

        section .text
        bits    32

report_machine:
        call    report_loader
        call    report_memory
        call    report_cpu
        call    report_chips
        call    report_apics
        call    report_pci
        call    report_power_management
        call    measure_tsc
        ret

; --- what the boot loader says ---

report_loader:
        cmp     dword [boot_magic], MULTIBOOT_LOADED
        je      .multiboot
        PRINT   "boot      not by Multiboot: EAX was "
        mov     eax, [boot_magic]
        call    print_hex32
        PRINT   "h", 10
        ret
.multiboot:
        mov     ebx, [boot_info]
        PRINT   "boot      Multiboot"
        test    dword [ebx + mbi.flags], MBI_HAS_LOADER_NAME
        jz      .command_line
        PRINT   " by "
        mov     esi, [ebx + mbi.loader_name]
        call    print_string
.command_line:
        test    dword [ebx + mbi.flags], MBI_HAS_COMMAND_LINE
        jz      .done
        PRINT   ", command line: "
        mov     esi, [ebx + mbi.cmdline]
        call    print_string
.done:
        PRINT   10
        ret

report_memory:
        cmp     dword [boot_magic], MULTIBOOT_LOADED
        jne     .done
        mov     ebx, [boot_info]
        test    dword [ebx + mbi.flags], MBI_HAS_MEMORY
        jz      .map
        PRINT   "memory    "
        mov     eax, [ebx + mbi.mem_lower]
        call    print_dec
        PRINT   " KiB below 1 MiB, "
        mov     eax, [ebx + mbi.mem_upper]
        call    print_dec
        PRINT   " KiB above", 10
.map:
        test    dword [ebx + mbi.flags], MBI_HAS_MEMORY_MAP
        jz      .done
        mov     esi, [ebx + mbi.mmap_addr]
        mov     edi, [ebx + mbi.mmap_length]
        add     edi, esi
        mov     ebp, MAX_MAP_ENTRIES
.entry:
        cmp     esi, edi
        jae     .done
        call    print_map_entry
        lodsd                           ; size of the rest of the entry
        add     esi, eax
        dec     ebp
        jnz     .entry
.done:
        ret

; ESI: size, base (64 bits), length (64 bits), type.
print_map_entry:
        PRINT   "          "
        mov     eax, [esi + 4]
        mov     edx, [esi + 8]
        call    print_hex64
        PRINT   "h-"
        add     eax, [esi + 12]
        adc     edx, [esi + 16]
        sub     eax, 1
        sbb     edx, 0
        call    print_hex64
        cmp     dword [esi + 20], 1
        je      .usable
        PRINT   "h  reserved, type "
        mov     eax, [esi + 20]
        call    print_dec
        PRINT   10
        ret
.usable:
        PRINT   "h  usable", 10
        ret

print_hex64:                            ; EDX:EAX
        xchg    eax, edx
        call    print_hex32
        xchg    eax, edx
        jmp     print_hex32

; --- CPUID (SDM vol. 2A) ---

report_cpu:
        pushfd                          ; CPUID exists if EFLAGS.ID can be changed
        pop     eax
        mov     ecx, eax
        xor     eax, 1 << 21
        push    eax
        popfd
        pushfd
        pop     eax
        push    ecx
        popfd
        xor     eax, ecx
        test    eax, 1 << 21
        jnz     .has_cpuid
        PRINT   "processor without CPUID", 10
        ret
.has_cpuid:
        call    read_cpuid
        PRINT   "processor "
        mov     esi, cpu_vendor
        call    print_string
        PRINT   ", signature "
        mov     eax, [cpuid_signature]
        call    print_hex32
        PRINT   "h"
        cmp     byte [cpu_brand], 0
        je      .features
        PRINT   ", "
        mov     esi, cpu_brand
        call    print_string
.features:
        PRINT   10, "          "
        mov     esi, feature_names
        xor     edi, edi                ; columns used
.feature:
        movzx   eax, byte [esi]
        cmp     al, -1
        je      .done
        movzx   ecx, byte [esi + 1]
        add     esi, 2
        bt      [cpuid_words + eax * 4], ecx
        jc      .present
.skip:
        lodsb
        test    al, al
        jnz     .skip
        jmp     .feature
.present:
        cmp     edi, 80
        jb      .name
        xor     edi, edi
        PRINT   10, "          "
.name:
        sub     edi, esi
        call    print_string
        add     edi, esi
        PRINT   " "
        jmp     .feature
.done:
        PRINT   10
        ret

; Fills cpu_vendor, cpu_brand, cpuid_signature and cpuid_words.
read_cpuid:
        xor     eax, eax
        cpuid
        mov     [cpu_vendor], ebx
        mov     [cpu_vendor + 4], edx
        mov     [cpu_vendor + 8], ecx
        mov     esi, eax                ; highest basic leaf
        mov     eax, 1
        cpuid
        mov     [cpuid_signature], eax
        mov     [cpuid_edx1], edx
        mov     [cpuid_ecx1], ecx
        cmp     esi, 7
        jb      .extended
        mov     eax, 7
        xor     ecx, ecx
        cpuid
        mov     [cpuid_ebx7], ebx
.extended:
        mov     eax, 0x80000000
        cpuid
        mov     esi, eax                ; highest extended leaf; a small number if there is none
        cmp     esi, 0x80000001
        jb      .done
        mov     eax, 0x80000001
        cpuid
        mov     [cpuid_edx_ext], edx
        mov     [cpuid_ecx_ext], ecx
        cmp     esi, 0x80000004
        jb      .done
        mov     edi, cpu_brand
        mov     esi, 0x80000002
.brand:
        mov     eax, esi
        cpuid
        stosd
        mov     eax, ebx
        stosd
        mov     eax, ecx
        stosd
        mov     eax, edx
        stosd
        inc     esi
        cmp     esi, 0x80000004
        jbe     .brand
.done:
        ret

; --- the PC's chips ---

report_chips:
        PRINT   "chips    "
        call    probe_pic
        mov     esi, name_pic
        call    print_presence
        call    probe_pit
        mov     esi, name_pit
        call    print_presence
        mov     al, RTC_STATUS_D
        call    rtc_read
        and     al, RTC_VRT | 0x40      ; an absent chip reads all ones; bit 6 of D is 0
        cmp     al, RTC_VRT
        mov     esi, name_rtc
        call    print_presence
        jne     .done
        call    print_time
.done:
        PRINT   10
        ret

; ESI: name, ZF: present.  Keeps ZF.
print_presence:
        pushfd
        call    print_string
        popfd
        je      .done
        PRINT   " (absent)"
.done:
        ret

; ZF if the first interrupt controller's mask register keeps what is written.
probe_pic:
        in      al, PIC1_DATA
        mov     ah, al
        mov     al, 0xA5
        out     PIC1_DATA, al
        in      al, PIC1_DATA
        xchg    al, ah
        out     PIC1_DATA, al
        cmp     ah, 0xA5
        ret

; ZF if counter 0 counts.
probe_pit:
        mov     al, PIT_COUNTER0 | PIT_LATCH
        out     PIT_CONTROL, al
        call    .read
        mov     bx, ax
        mov     ecx, 100000
.again:
        mov     al, PIT_COUNTER0 | PIT_LATCH
        out     PIT_CONTROL, al
        call    .read
        cmp     ax, bx
        loope   .again
        setne   al
        cmp     al, 1
        ret
.read:
        in      al, PIT_DATA0
        mov     ah, al
        in      al, PIT_DATA0
        xchg    al, ah
        ret

; AL: register.  Returns AL.
rtc_read:
        out     RTC_INDEX, al
        in      al, RTC_DATA
        ret

; The date and time, read between two updates.
print_time:
        mov     ecx, 1 << 20
.update:
        mov     al, RTC_STATUS_A
        call    rtc_read
        test    al, RTC_UIP
        loopnz  .update
        mov     esi, rtc_fields
.field:
        lodsw                           ; AL: character before it or 0, AH: register
        cmp     ah, -1
        je      .done
        mov     bl, ah
        test    al, al
        jz      .digits
        call    print_char
.digits:
        mov     al, RTC_STATUS_B
        call    rtc_read
        mov     bh, al
        mov     al, bl
        call    rtc_read
        test    bh, RTC_DM
        jz      .bcd
        aam                             ; binary to BCD
        shl     ah, 4
        or      al, ah
.bcd:
        call    print_hex8
        jmp     .field
.done:
        ret

report_apics:
        test    dword [cpuid_edx1], CPUID_EDX1_APIC
        jz      .hpet
        mov     ecx, IA32_APIC_BASE
        rdmsr
        test    eax, 1 << 11
        jz      .hpet
        and     eax, 0xFFFFF000
        mov     ebx, eax
        PRINT   "local APIC at "
        call    print_hex32
        PRINT   "h, id "
        mov     eax, [ebx + APIC_ID]
        shr     eax, 24
        call    print_dec
        PRINT   ", version "
        mov     eax, [ebx + APIC_VERSION]
        call    print_hex8
        mov     dword [IOAPIC_BASE], 1  ; its version register
        mov     eax, [IOAPIC_BASE + IOAPIC_WINDOW]
        cmp     eax, -1
        je      .end
        PRINT   "h; I/O APIC version "
        call    print_hex8
        shr     eax, 16
        PRINT   "h, inputs "
        movzx   eax, al
        inc     eax
        call    print_dec
        PRINT   10
        jmp     .hpet
.end:
        PRINT   "h; no I/O APIC", 10
.hpet:
        mov     eax, [HPET_BASE]
        test    eax, eax
        jz      .done
        cmp     eax, -1
        je      .done
        PRINT   "HPET      capabilities "
        call    print_hex32
        PRINT   "h", 10
.done:
        ret

; --- PCI ---

; EBX: bus, device, function in bits 23:8.  AL: register, a multiple of 4.  Returns EAX.
pci_read:
        call    pci_select
        in      eax, dx
        ret

; The same, ECX: value.
pci_write:
        call    pci_select
        xchg    eax, ecx
        out     dx, eax
        xchg    eax, ecx
        ret

pci_select:
        movzx   eax, al
        or      eax, ebx
        or      eax, PCI_ENABLE
        mov     edx, PCI_ADDRESS
        out     dx, eax
        mov     edx, PCI_DATA
        ret

; Functions of bus 0.
report_pci:
        xor     ebx, ebx
.function:
        xor     al, al
        call    pci_read
        cmp     ax, -1
        je      .absent
        call    print_pci_function
        jmp     .next
.absent:
        test    ebx, 7 << 8             ; no function 0: no device
        jnz     .next
        or      ebx, 7 << 8
.next:
        add     ebx, 1 << 8
        cmp     ebx, 1 << 16
        jb      .function
        ret

; EBX: the function, EAX: its vendor and device.
print_pci_function:
        PRINT   "PCI       "
        mov     esi, eax
        mov     eax, ebx
        shr     eax, 11
        call    print_hex8
        PRINT   "."
        mov     eax, ebx
        shr     eax, 8
        and     eax, 7
        call    print_dec
        PRINT   "  "
        mov     eax, esi
        call    print_hex16
        PRINT   ":"
        shr     eax, 16
        call    print_hex16
        PRINT   "  class "
        mov     al, 8
        call    pci_read
        shr     eax, 16
        call    print_hex16
        PRINT   10
        test    ebx, 7 << 8
        jnz     .done
        mov     al, 0x0C                ; header type
        call    pci_read
        test    eax, 1 << 23            ; more than one function
        jnz     .done
        or      ebx, 7 << 8
.done:
        ret

report_power_management:
        call    find_power_management
        mov     eax, [pm_base]
        test    eax, eax
        jz      .done
        PRINT   "ACPI      power management at port "
        call    print_hex16
        PRINT   "h", 10
.done:
        ret

; --- the time-stamp counter against the 8254 ---

TSC_WINDOW_MS   equ     50
TSC_WINDOW      equ     59659           ; counts of 1.193182 MHz

; Counter 2 in mode 0 runs for 50 ms; its output is read back at port 61h.
measure_tsc:
        test    dword [cpuid_edx1], CPUID_EDX1_TSC
        jz      .unknown
        in      al, PORT_B
        and     al, ~(PORT_B_SPEAKER | PORT_B_GATE2)
        or      al, PORT_B_GATE2
        out     PORT_B, al
        mov     al, PIT_COUNTER2 | PIT_LOW_HIGH | PIT_MODE0
        out     PIT_CONTROL, al
        mov     al, TSC_WINDOW & 0xFF
        out     PIT_DATA2, al
        mov     al, TSC_WINDOW >> 8
        out     PIT_DATA2, al
        rdtsc
        mov     esi, eax
        mov     edi, edx
        mov     ecx, 100000000
.wait:
        in      al, PORT_B
        test    al, PORT_B_OUT2
        loopz   .wait
        jecxz   .unknown
        rdtsc
        sub     eax, esi
        sbb     edx, edi
        mov     ebx, TSC_WINDOW_MS
        cmp     edx, ebx
        jae     .unknown
        div     ebx
        cmp     eax, 1000               ; 1 MHz: no counter at all answered at once
        jb      .unknown
        mov     [tsc_khz], eax
        PRINT   "TSC       "
        xor     edx, edx
        mov     ebx, 10                 ; kHz to hundredths of a MHz
        div     ebx
        xor     ecx, ecx
        call    print_hundredths
        PRINT   " MHz by the 8254", 10
        ret
.unknown:
        PRINT   "TSC       rate unknown", 10
        ret

        section .data
name_pic:       db      " 8259", 0
name_pit:       db      " 8254", 0
name_rtc:       db      " MC146818", 0

; character before it, register
rtc_fields:     db      " ", 0x32, 0, 0x09, "-", 0x08, "-", 0x07, " ", 0x04, ":", 0x02, ":", 0x00, 0, -1

%macro FEATURES 2-*                     ; word of cpuid_words; then bit, name
  %assign word_index %1
  %rep (%0 - 1) / 2
    %rotate 1
        db      word_index, %1
    %rotate 1
        db      %1, 0
  %endrep
%endmacro

feature_names:
        FEATURES 0, 0, "fpu", 1, "vme", 3, "pse", 4, "tsc", 5, "msr", 6, "pae", 8, "cx8", 9, "apic"
        FEATURES 0, 11, "sep", 12, "mtrr", 13, "pge", 15, "cmov", 16, "pat", 23, "mmx", 24, "fxsr"
        FEATURES 0, 25, "sse", 26, "sse2"
        FEATURES 1, 0, "sse3", 1, "pclmul", 9, "ssse3", 12, "fma", 13, "cx16", 17, "pcid", 19, "sse4.1"
        FEATURES 1, 20, "sse4.2", 21, "x2apic", 22, "movbe", 23, "popcnt", 24, "tsc-deadline", 25, "aes"
        FEATURES 1, 26, "xsave", 28, "avx", 29, "f16c", 30, "rdrand", 31, "hypervisor"
        FEATURES 2, 0, "fsgsbase", 3, "bmi1", 5, "avx2", 7, "smep", 8, "bmi2", 9, "erms", 10, "invpcid"
        FEATURES 2, 16, "avx512f", 19, "adx", 20, "smap", 29, "sha"
        FEATURES 3, 11, "syscall", 20, "nx", 26, "1gb-pages", 27, "rdtscp", 29, "lm"
        FEATURES 4, 5, "lzcnt"
        db      -1

        section .bss
        alignb  4
cpu_vendor:             resb 16
cpu_brand:              resb 52
cpuid_signature:        resd 1
cpuid_words:
cpuid_edx1:             resd 1
cpuid_ecx1:             resd 1
cpuid_ebx7:             resd 1
cpuid_edx_ext:          resd 1
cpuid_ecx_ext:          resd 1
tsc_khz:                resd 1          ; 0: unknown
