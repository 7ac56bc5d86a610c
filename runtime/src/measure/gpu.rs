//! Measuring an NVIDIA GPU: launches, memory and matrix products.
#![allow(unsafe_code, reason = "launches kernels through the driver")]

use std::sync::Arc;

use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use half::bf16;

const PTX: &str = include_str!("gpu.ptx");
/// Seconds that each figure is measured for, so that clocks settle under the load.
const LONG: f64 = 0.2;
/// Bytes that the memory is measured with: far more than a last-level cache has.
const BYTES: usize = 1 << 30;
/// Launches of the kernel that does nothing.
const LAUNCHES: u32 = 10_000;
/// m, n and k of the products: those of transformers of 1 to 100 billion parameters.
const PRODUCTS: [[u64; 3]; 6] =
    [[8192, 8192, 8192], [8192, 4096, 4096], [4096, 12_288, 4096], [8192, 2048, 8192], [4096, 4096, 16_384], [16_384, 5120, 5120]];

/// What was measured of a GPU.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The name that the driver has for it.
    pub name: String,
    /// How many there are of it.
    pub count: u64,
    /// Its memory.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub compute_units: u64,
    /// Seconds from one kernel to the next.
    pub launch: f64,
    /// Bytes a second that a copy reads and writes.
    pub memory: f64,
    /// Seconds of bf16 matrix products by m, n and k.
    pub products: Vec<([u64; 3], f64)>,
}

/// Whether the system has a driver.
pub fn is_there() -> bool {
    // SAFETY: looks whether a library can be loaded, and calls nothing in it but what it does when it is loaded.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// Measures the first GPU.
///
/// # Errors
/// In the driver's or the library's words.
pub fn measure() -> Result<Gpu, String> {
    measured().map_err(|Told(words)| words)
}

fn measured() -> Result<Gpu, Told> {
    let context = CudaContext::new(0)?;
    // SAFETY: as in `is_there`.
    if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        return Err(Told("cuBLASLt (libcublasLt.so) is not installed".to_owned()));
    }
    let bench = Bench::new(&context)?;
    let units = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    Ok(Gpu {
        name: context.name()?,
        count: u64::try_from(CudaContext::device_count()?).unwrap_or(1),
        memory_bytes: context.total_mem()? as u64,
        compute_units: u64::try_from(units).unwrap_or(1),
        launch: bench.launch()?,
        memory: bench.memory(u32::try_from(units).unwrap_or(1))?,
        products: bench.products()?,
    })
}

type Driver<T> = Result<T, cudarc::driver::DriverError>;

struct Bench {
    stream: Arc<CudaStream>,
    scale: CudaFunction,
    nothing: CudaFunction,
}

impl Bench {
    fn new(context: &Arc<CudaContext>) -> Driver<Self> {
        let module = context.load_module(Ptx::from_src(PTX))?;
        Ok(Self { stream: context.default_stream(), scale: module.load_function("scale")?, nothing: module.load_function("nothing")? })
    }

    /// Seconds of one of `goes` goes, by the device's clock.
    fn timed<E: From<cudarc::driver::DriverError>>(&self, goes: u32, go: &mut dyn FnMut() -> Result<(), E>) -> Result<f64, E> {
        let mark = || self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let start = mark()?;
        for _ in 0..goes {
            go()?;
        }
        let end = mark()?;
        end.synchronize()?;
        Ok(f64::from(start.elapsed_ms(&end)?) * 1e-3 / f64::from(goes))
    }

    /// Seconds of a go once it has gone for [`LONG`].
    fn settled<E: From<cudarc::driver::DriverError>>(&self, go: &mut dyn FnMut() -> Result<(), E>) -> Result<f64, E> {
        self.timed(3, go)?;
        let once = self.timed(3, go)?;
        let goes = (LONG / once.max(1e-6)).clamp(3.0, 1e5) as u32;
        self.timed(goes, go)?;
        self.timed(goes, go)
    }

    fn launch(&self) -> Driver<f64> {
        let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
        let mut go = || {
            // SAFETY: the kernel takes nothing and touches nothing.
            unsafe { self.stream.launch_builder(&self.nothing).launch(one) }.map(drop)
        };
        self.timed(LAUNCHES, &mut go)?;
        self.timed(LAUNCHES, &mut go)
    }

    fn memory(&self, units: u32) -> Driver<f64> {
        let from = self.stream.alloc_zeros::<f32>(BYTES / 8)?;
        let mut to = self.stream.alloc_zeros::<f32>(BYTES / 8)?;
        let fours = (BYTES / 8 / 4) as u64;
        let all = LaunchConfig { grid_dim: (16 * units, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
        let seconds = self.settled(&mut || {
            let mut launch = self.stream.launch_builder(&self.scale);
            launch.arg(&mut to).arg(&from).arg(&fours);
            // SAFETY: both buffers have four numbers for each that is counted, and the kernel leaves no bounds.
            unsafe { launch.launch(all) }.map(drop)
        })?;
        Ok(BYTES as f64 / seconds)
    }

    fn products(&self) -> Result<Vec<([u64; 3], f64)>, Told> {
        let library = CudaBlasLT::new(Arc::clone(&self.stream)).map_err(|error| Told(format!("cuBLASLt: {error:?}")))?;
        PRODUCTS.iter().map(|sizes| Ok((*sizes, self.product(&library, *sizes)?))).collect()
    }

    fn product(&self, library: &CudaBlasLT, [m, n, k]: [u64; 3]) -> Result<f64, Told> {
        // numbers that differ: a device that multiplies zeros draws less power, and is faster than it will be
        let numbers =
            |n: u64| -> Vec<bf16> { (0..n).map(|i| bf16::from_f32((i.wrapping_mul(2_654_435_761) % 1009) as f32 / 504.5 - 1.0)).collect() };
        let a = self.stream.clone_htod(&numbers(m * k))?;
        let b = self.stream.clone_htod(&numbers(k * n))?;
        let mut c = self.stream.alloc_zeros::<bf16>((m * n) as usize)?;
        let config = MatmulConfig {
            transa: true,
            transb: false,
            transc: false,
            m,
            n,
            k,
            alpha: 1.0,
            lda: k as i64,
            ldb: k as i64,
            beta: 0.0,
            ldc: m as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        self.settled(&mut || {
            // SAFETY: a is (k m), b (k n) and c (m n), column by column as the library counts, each as large as its buffer.
            unsafe { library.matmul(config, &a, &b, &mut c, None, None) }.map_err(|error| Told(format!("cuBLASLt: {error:?}")))
        })
    }
}

/// An error in words.
struct Told(String);

impl From<cudarc::driver::DriverError> for Told {
    fn from(error: cudarc::driver::DriverError) -> Self {
        Told(format!("the driver: {error:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Where there is an assembler, it takes the kernels for every device of the catalogue.
    #[test]
    fn the_kernels_assemble() {
        if Command::new("ptxas").arg("--version").output().is_err() {
            println!("skipped: there is no ptxas");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("gpu.ptx");
        std::fs::write(&source, PTX).unwrap();
        for target in ["sm_75", "sm_80", "sm_89", "sm_90", "sm_100"] {
            let out = Command::new("ptxas").args(["-arch", target, "-o"]).arg(folder.path().join("out")).arg(&source).output().unwrap();
            assert!(out.status.success(), "{target}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
}
