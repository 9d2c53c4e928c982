"""Flags that leave most specialisations out: they take long to compile, above all sanitized."""

# Blur 3; max 2, blur 4; max 3, blur 3. Cases of other sizes run the generic kernels.
FEW = (
    "-DFASTBLUR_CUDA_POOLS(f)=f(1, 0) f(2, 0) f(3, 1)",
    "-DFASTBLUR_CUDA_TAPS(f, k, p)=f(k, p, (k == 2 ? 4 : 3))",
)
NONE = ("-DFASTBLUR_CUDA_POOLS(f)=",)
