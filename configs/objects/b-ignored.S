# Class b: ANNOTATE_IGNORE_ALTERNATIVE keeps objtool from the replacement, whose pushes
# then have no entries (retpolines of 4.15 to 5.7 were made so).
.include "site.inc"
.text
FUNC victim
	.pushsection .discard.ignore_alts
	.long	661f - .
	.popsection
661:	nop; nop; nop
662:
REPLACEMENT
1:	push %rax; nop; pop %rax
2:
REPLACEMENT_END
ALT 1b, 2b, ERMS
FUNC_END victim
