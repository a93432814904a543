# The proposal of 2017: one site with a text for each platform, the native one
# `pushfq; popq %rax`, a call each for Xen, vSMP and lguest. All is well with it: the
# stack is back before the calls' last byte.
.include "site.inc"
.set VSMP, 21*32+30
.set LGUEST, 21*32+31
.text
FUNC victim
661:	pushfq; popq %rax; nop; nop; nop
662:
REPLACEMENT
1:	pushfq; popq %rax
2:	call xen_save_fl
3:	call vsmp_save_fl
4:	call lguest_save_fl
5:
REPLACEMENT_END
ALT 1b, 2b, ALWAYS
ALT 2b, 3b, XENPV
ALT 3b, 4b, VSMP
ALT 4b, 5b, LGUEST
FUNC_END victim
FUNC xen_save_fl
FUNC_END xen_save_fl
FUNC vsmp_save_fl
FUNC_END vsmp_save_fl
FUNC lguest_save_fl
FUNC_END lguest_save_fl
