# Class d: up to 6.2 the kernel pads with NOPs of at most 8 bytes. The padding of the
# short text starts a NOP at +8, where the table has the long text's push.
.set ALT_SIZE, 12
.include "site.inc"
.text
FUNC victim
661:	.byte	0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 # one NOP
662:
REPLACEMENT
1:	xor %eax, %eax; .byte 0x0f, 0x1f, 0x44, 0, 0; push %rax; nop; pop %rax; nop
2:	nop
3:
REPLACEMENT_END
ALT 1b, 2b, ERMS
ALT 2b, 3b, FSRM
FUNC_END victim

ORC victim, 8, CALL_OLD
ORC 661b+8, 16, CALL_OLD
ORC 661b+10, 8, CALL_OLD
ORC victim+16, 0, UNDEFINED
