// What the compiled inner loops share (compiled.py finds them): a copy for machines with fused multiply-adds.

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx2,fma", "default")))
#else
#define CLONES
#endif

#ifdef __GNUC__ // into each copy
#define FORCED __attribute__((always_inline))
#else
#define FORCED
#endif
