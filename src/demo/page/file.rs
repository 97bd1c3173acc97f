//! The file that the page goes into: tried before the run, written whole or not at all.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// A file that could be written when it was looked at.
#[derive(Debug)]
pub struct Destination {
    named: PathBuf,
    folder: PathBuf,
    file: OsString,
}

/// Why the page cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {}: {why}", file.display())]
pub struct CannotWrite {
    file: PathBuf,
    why: String,
}

impl Destination {
    /// Looks whether `named` can be written, by writing beside it; what is there already stays as it is.
    pub fn find(named: &Path) -> Result<Self, CannotWrite> {
        let refuse = |why: String| CannotWrite { file: named.to_owned(), why };
        let path = match std::fs::metadata(named) {
            Ok(found) if found.is_dir() => return Err(refuse("it is a folder".to_owned())),
            // A device or a pipe would be replaced by a file.
            Ok(found) if !found.is_file() => {
                return Err(refuse("it is there and no ordinary file".to_owned()));
            }
            // What a link points to is written, not the link.
            Ok(_) => named.canonicalize().map_err(|error| refuse(error.to_string()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => named.to_owned(),
            Err(error) => return Err(refuse(error.to_string())),
        };
        let Some(file) = path.file_name() else {
            return Err(refuse("expected the name of a file".to_owned()));
        };
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            return Err(refuse(format!("there is no folder {}", folder.display())));
        }
        let destination = Self { named: named.to_owned(), file: file.to_owned(), folder };
        // It goes when it is dropped, so that a run that is broken off leaves nothing.
        destination.beside().map(|_| destination)
    }

    /// Puts `page` there in one step: a reader finds the earlier file or this one, whole.
    pub fn write(&self, page: &str) -> Result<(), CannotWrite> {
        let mut beside = self.beside()?;
        beside.write_all(page.as_bytes()).map_err(|error| self.refuse(&error))?;
        beside.persist(self.folder.join(&self.file)).map_err(|error| self.refuse(&error.error))?;
        Ok(())
    }

    /// The file's name as it was given.
    pub fn name(&self) -> &Path {
        &self.named
    }

    fn beside(&self) -> Result<NamedTempFile, CannotWrite> {
        let mut builder = Builder::new();
        builder.prefix(".refrain-report-");
        // Who may read it is for the user's mask to say, as with any file that a program writes.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.tempfile_in(&self.folder).map_err(|error| self.refuse(&error))
    }

    fn refuse(&self, error: &std::io::Error) -> CannotWrite {
        CannotWrite { file: self.named.clone(), why: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn looking_leaves_nothing_and_writing_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        let destination = Destination::find(&path).unwrap();
        assert_eq!(files(folder.path()), [""; 0]);
        destination.write("first").unwrap();
        Destination::find(&path).unwrap().write("second").unwrap();
        assert_eq!(files(folder.path()), ["page.html"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_its_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file.html"), folder.path().join("link.html"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        Destination::find(&link).unwrap().write("new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn what_cannot_be_written_is_refused_with_its_name_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        let missing = folder.path().join("missing/page.html");
        let cases = [
            (folder.path().to_owned(), "it is a folder"),
            (missing, "there is no folder"),
            (file.join("page.html"), "Not a directory"),
            (PathBuf::from("/dev/null"), "no ordinary file"),
            (PathBuf::new(), "the name of a file"),
            (PathBuf::from("/proc/page.html"), "No such file or directory"),
        ];
        for (path, why) in cases {
            let text = Destination::find(&path).unwrap_err().to_string();
            let named = format!("cannot write the report {}: ", path.display());
            assert!(text.starts_with(&named) && text.contains(why), "{text}");
        }
        assert_eq!(files(folder.path()), ["file"]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
