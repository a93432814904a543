# Class c, the example of LKML 20210104154818.GB3040: a call in one text, and in the
# other pushf at its first byte and pop behind its last. Both designs call it fine; an
# unwinder looks the call's frame up at its last byte, where pushf is still in force.
.include "site.inc"
.text
FUNC callee
FUNC_END callee
FUNC victim
661:	call callee
662:
REPLACEMENT
1:	pushf; nop; nop; nop; popf
2:
REPLACEMENT_END
ALT 1b, 2b, ERMS
FUNC_END victim
