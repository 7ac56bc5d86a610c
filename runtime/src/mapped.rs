//! Files mapped into memory for reading.
#![allow(unsafe_code, reason = "mapping a file is unsafe: another process could change it")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file. They are not to be changed while it is open: shortening the file makes reads past its new end
/// stop the process.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a regular file. Anything else (a directory, a pipe, a device) is an error, said before it could block.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let kind = std::fs::metadata(path)?;
        if kind.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory, not a file"));
        }
        if !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the map is read-only and private to this value. That nobody else changes the file is asked of the
        // user; readers here take bytes as they come and check them, so a changed file gives wrong numbers or an error.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(MappedFile(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
