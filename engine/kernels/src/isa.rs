//! The instruction sets that the kernels distinguish, and functions compiled once for each.

/// An instruction set, detected at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// AVX-512 with bf16 dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 foundation.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The target's baseline.
    Portable,
}

impl Isa {
    /// What this machine can do.
    pub(super) fn detect() -> Self {
        static FOUND: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *FOUND.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
                    return Self::Avx512Bf16;
                }
                if is_x86_feature_detected!("avx512f") {
                    return Self::Avx512;
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    return Self::Avx2;
                }
            }
            Self::Portable
        })
    }

    /// Whether dot products of bytes (AVX512-VNNI) are native. Every machine so far that has bf16 dot products has them.
    pub(super) fn has_byte_dots(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16 && is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Whether bf16 dot products are native.
    pub(super) fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }
}

/// Defines `fn name(args)` that runs the `#[inline(always)]` function `body` compiled for the best instruction set found.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? => $body:path) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                match $crate::isa::Isa::detect() {
                    // SAFETY: the instructions were detected.
                    $crate::isa::Isa::Avx512Bf16 | $crate::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::isa::Isa::Portable => {}
                }
            }
            $body($($arg),*)
        }
    };
}
pub(super) use vectorised;
