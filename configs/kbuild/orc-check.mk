# SPDX-License-Identifier: GPL-2.0-or-later
#
# make orc-check: build a kernel as usual, then have orc-harness validate what came out.
#
# In a kernel tree, or in the directory given to O=, either
#
#     make -f .../configs/kbuild/orc-check.mk orc-check [O=DIR] [other goals]
#
# or, once, ln -s .../configs/kbuild/orc-check.mk GNUmakefile, and then
#
#     make orc-check [O=DIR] [other goals]
#
# GNU make reads GNUmakefile before Makefile; every goal but orc-check goes to the
# kernel's own Makefile as it is. Other goals are made first; without any, all is.
# ORC_HARNESS is the command, ORC_FLAGS its options (--format json, --known DIR).

ORC_HARNESS ?= orc-harness
ORC_FLAGS ?=

ifeq ($(filter orc-check,$(MAKECMDGOALS)),)
include Makefile
else

orc-goals := $(filter-out orc-check,$(MAKECMDGOALS))
orc-build := $(or $(O),$(KBUILD_OUTPUT),.)

.PHONY: orc-check $(orc-goals)
orc-check:
	$(MAKE) -f Makefile $(orc-goals)
	$(ORC_HARNESS) validate $(ORC_FLAGS) $(orc-build)

# They are made by the recipe above, in one go and in their order.
$(orc-goals): orc-check
	@:

endif
