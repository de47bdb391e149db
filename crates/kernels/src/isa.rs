//! Which instruction set runs, decided once and carried as a value.
//!
//! A [`Kernels`] can only be made for an instruction set that this CPU has, so holding one is the proof on which the
//! calls into `#[target_feature]` code rest.

/// An instruction set with kernels of its own. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code over arrays of 16 `f32` with `f32::mul_add`: the twin, and what runs on aarch64.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
}

impl Isa {
    /// Every instruction set that has kernels, slowest first.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];

    /// Whether this CPU can run it (the answer is cached by the standard library).
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Isa::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// The instruction sets of this CPU, slowest first; never empty.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }
}

/// The kernels of one instruction set that this CPU is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The widest instruction set of this CPU.
    pub fn best() -> Self {
        let isa = Isa::available().last().unwrap_or(Isa::Scalar);
        Self { isa }
    }

    /// The kernels of `isa`, or `None` where this CPU lacks it.
    pub fn with_isa(isa: Isa) -> Option<Self> {
        isa.is_available().then_some(Self { isa })
    }

    /// The instruction set that runs.
    pub fn isa(self) -> Isa {
        self.isa
    }
}

/// Generates `fn $name(isa, args)`: one generic body, instantiated for each instruction set inside a function that
/// enables its features, so that there is one algorithm text.
///
/// Safety of the generated calls: `isa` comes from a [`Kernels`], which exists only if the CPU has the features.
macro_rules! dispatch {
    ($(#[$meta:meta])* fn $name:ident ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        fn $name(kernels: $crate::Kernels, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: this function's target features are the ones that the lanes need.
                    unsafe { $body::<$crate::lanes::Avx2>($($arg),*) }
                }
                #[target_feature(enable = "avx512f,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: this function's target features are the ones that the lanes need.
                    unsafe { $body::<$crate::lanes::Avx512>($($arg),*) }
                }
                match kernels.isa() {
                    // SAFETY: a `Kernels` of this instruction set exists only where the CPU has its features.
                    $crate::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    $crate::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    $crate::Isa::Scalar => {}
                }
            }
            let _ = kernels;
            // SAFETY: the scalar lanes need no CPU feature.
            unsafe { $body::<$crate::lanes::Scalar>($($arg),*) }
        }
    };
}
pub(crate) use dispatch;
