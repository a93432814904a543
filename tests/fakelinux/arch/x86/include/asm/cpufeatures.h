#define X86_FEATURE_FPU ( 0*32+ 0)
