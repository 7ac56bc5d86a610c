//! Images with their labels: of a file, or drawn so that a model has something to learn.

use std::path::{Path, PathBuf};

use partita_ir::layout::Intervals;
use partita_ir::random::{DrawContext, salt_of, stream, uniform};
use safetensors::{Dtype, SafeTensors};

use super::{DataError, shuffled};
use crate::mapped::MappedFile;
use crate::run::leaf::each_index;

/// What a model asks of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Elements of one image along each of its axes, such as height, width and colours.
    pub shape: Vec<u64>,
    /// Classes: a label is below.
    pub classes: u64,
}

/// A source of images.
#[derive(Debug)]
pub enum ImageSource {
    /// Drawn: half of each pixel is that of the class's own picture, half is noise.
    Drawn {
        /// Of these sizes.
        images: Images,
        /// By this seed.
        seed: u64,
    },
    /// The images of a file.
    File(ImageFile),
}

/// The tensors `images` (u8, of shape (samples, the image's axes ...)) and `labels` (u8, i32 or i64, of shape (samples)) of
/// a safetensors file. Every epoch goes through all of them in an order of its own.
#[derive(Debug)]
pub struct ImageFile {
    path: PathBuf,
    bytes: MappedFile,
    /// First byte of the pixels, and of the labels.
    starts: (usize, usize),
    label: Dtype,
    samples: u64,
    images: Images,
    seed: u64,
}

impl ImageSource {
    /// Opens a file, or draws where there is none.
    pub fn open(path: Option<&Path>, images: Images, seed: u64) -> Result<ImageSource, DataError> {
        match path {
            None => Ok(ImageSource::Drawn { images, seed }),
            Some(path) => ImageFile::open(path, images, seed).map(ImageSource::File),
        }
    }

    /// Calls `visit` with each pixel of a part of a sample, from 0 to 1, in order.
    pub fn pixels(&self, sample: u64, part: &[Intervals], visit: &mut dyn FnMut(f64)) {
        match self {
            ImageSource::Drawn { images, seed } => {
                let draws = |salt: &str, step: u64| stream(DrawContext { seed: *seed, step, iteration: 0 }, salt_of(salt));
                let (picture, noise) = (draws("data.picture", drawn_label(images, *seed, sample)), draws("data.noise", sample));
                each_index(&images.shape, part, &mut |element| {
                    let mixed = 0.5 * (uniform(picture, element) + uniform(noise, element));
                    visit((mixed * 256.0).floor() / 255.0);
                });
            }
            ImageSource::File(file) => {
                let size: u64 = file.images.shape.iter().product();
                let first = file.starts.0 + (file.place(sample) * size) as usize;
                each_index(&file.images.shape, part, &mut |element| visit(f64::from(file.bytes[first + element as usize]) / 255.0));
            }
        }
    }

    /// The label of a sample.
    pub fn label(&self, sample: u64) -> Result<i32, DataError> {
        match self {
            ImageSource::Drawn { images, seed } => Ok(drawn_label(images, *seed, sample) as i32),
            ImageSource::File(file) => file.label(file.place(sample)),
        }
    }

    /// Samples until the source repeats itself in another order; `None` if it never does.
    pub fn samples_per_epoch(&self) -> Option<u64> {
        match self {
            ImageSource::Drawn { .. } => None,
            ImageSource::File(file) => Some(file.samples),
        }
    }
}

fn drawn_label(images: &Images, seed: u64, sample: u64) -> u64 {
    let draws = stream(DrawContext { seed, step: sample, iteration: 0 }, salt_of("data.label"));
    (uniform(draws, 0) * images.classes as f64) as u64
}

impl ImageFile {
    fn open(path: &Path, images: Images, seed: u64) -> Result<ImageFile, DataError> {
        let bytes = MappedFile::open(path).map_err(|source| DataError::Unreadable { path: path.to_owned(), source })?;
        let wrong = |why: String| DataError::Images { path: path.to_owned(), why };
        let (starts, label, samples) = {
            let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(format!("it is no whole safetensors file: {error}")))?;
            let tensor = |name: &str| {
                let held = || file.names().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                file.tensor(name).map_err(|_| wrong(format!("it has no tensor `{name}`, only: {}", held())))
            };
            let (pixels, labels) = (tensor("images")?, tensor("labels")?);
            let (found, wanted) = (pixels.shape(), &images.shape);
            let alike = found.len() == wanted.len() + 1 && found[1..].iter().zip(wanted).all(|(a, b)| *a as u64 == *b);
            if !alike {
                return Err(wrong(format!("`images` has shape {found:?}, and the model reads (samples, then {wanted:?})")));
            }
            if pixels.dtype() != Dtype::U8 {
                return Err(wrong(format!("`images` has elements of type {:?}, and pixels are bytes (U8)", pixels.dtype())));
            }
            if !matches!(labels.dtype(), Dtype::U8 | Dtype::I32 | Dtype::I64) {
                return Err(wrong(format!("`labels` has elements of type {:?}, and labels are U8, I32 or I64", labels.dtype())));
            }
            if labels.shape() != [found[0]] {
                return Err(wrong(format!("`labels` has shape {:?}, and there are {} images", labels.shape(), found[0])));
            }
            if found[0] == 0 {
                return Err(wrong("it holds no image".to_owned()));
            }
            let start = |data: &[u8]| data.as_ptr() as usize - bytes.as_ptr() as usize;
            ((start(pixels.data()), start(labels.data())), labels.dtype(), found[0] as u64)
        };
        Ok(ImageFile { path: path.to_owned(), bytes, starts, label, samples, images, seed })
    }

    /// Which image of the file a sample of the run is.
    fn place(&self, sample: u64) -> u64 {
        shuffled(sample % self.samples, self.samples, self.seed, sample / self.samples)
    }

    fn label(&self, image: u64) -> Result<i32, DataError> {
        fn at<const N: usize>(bytes: &[u8], n: u64) -> [u8; N] {
            *bytes[n as usize * N..].first_chunk().expect("the file has a label for each image")
        }
        let bytes = &self.bytes[self.starts.1..];
        let label = match self.label {
            Dtype::U8 => i64::from(bytes[image as usize]),
            Dtype::I32 => i64::from(i32::from_le_bytes(at(bytes, image))),
            _ => i64::from_le_bytes(at(bytes, image)),
        };
        match u64::try_from(label) {
            Ok(class) if class < self.images.classes => Ok(class as i32),
            _ => Err(DataError::OutsideClasses { path: self.path.clone(), image, label, classes: self.images.classes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> ImageSource {
        ImageSource::open(None, Images { shape: vec![4, 5, 3], classes: 7 }, 9).unwrap()
    }

    fn read(source: &ImageSource, sample: u64, part: &[Intervals]) -> Vec<f64> {
        let mut out = Vec::new();
        source.pixels(sample, part, &mut |value| out.push(value));
        out
    }

    #[test]
    fn a_part_of_an_image_is_a_part_of_the_whole() {
        let source = drawn();
        let whole = read(&source, 12, &[vec![(0, 4)], vec![(0, 5)], vec![(0, 3)]]);
        assert!(whole.len() == 60 && whole.iter().all(|value| (0.0..=1.0).contains(value)));
        let part = read(&source, 12, &[vec![(1, 2), (3, 4)], vec![(2, 4)], vec![(0, 3)]]);
        let rows = [1, 3].into_iter().flat_map(|row| [2, 3].map(|col| (row * 5 + col) * 3));
        assert_eq!(part, rows.flat_map(|at| whole[at..at + 3].to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn images_of_a_class_are_alike() {
        let source = drawn();
        let all: Vec<Intervals> = vec![vec![(0, 4)], vec![(0, 5)], vec![(0, 3)]];
        let labels: Vec<i32> = (0..200).map(|sample| source.label(sample).unwrap()).collect();
        assert!((0..7).all(|class| labels.contains(&class)));
        let (mut same, mut other) = ((0.0, 0), (0.0, 0));
        for a in 0..60 {
            for b in 0..a {
                let apart: f64 = read(&source, a, &all).iter().zip(read(&source, b, &all)).map(|(x, y)| (x - y).abs()).sum();
                let of = if labels[a as usize] == labels[b as usize] { &mut same } else { &mut other };
                *of = (of.0 + apart, of.1 + 1);
            }
        }
        assert!(same.0 / f64::from(same.1) < 0.8 * other.0 / f64::from(other.1));
    }
}
