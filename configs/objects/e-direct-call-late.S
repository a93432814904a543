# Class e: patched in turn, the direct call finds `pushf; pop %rax` where it looks for
# the pointer that it calls through (a4233c21e773).
.include "site.inc"
.text
FUNC victim
661:	call *pointer(%rip)
662:
REPLACEMENT
1:	pushf; pop %rax
2:	call callee
3:
REPLACEMENT_END
ALT 1b, 2b, XENPV, NOT
ALT 2b, 3b, ALWAYS, DIRECT_CALL
FUNC_END victim
FUNC callee
FUNC_END callee
	.pushsection .discard.retpoline_safe
	.long	661b - .
	.popsection
.data
pointer:
	.quad	callee
