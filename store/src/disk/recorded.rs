//! `std::fs` with a memory: what was done below a folder, in order.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// One change of the disk, or one thing that a test knows of; paths are relative to the recorded
/// folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A new, empty file, or one that was emptied.
    Create(PathBuf),
    /// Bytes at the end of a file.
    Write(PathBuf, Vec<u8>),
    /// A file cut to this length.
    SetLen(PathBuf, u64),
    /// A file's bytes are on the disk.
    Sync(PathBuf),
    /// A folder's names are on the disk.
    SyncDir(PathBuf),
    MakeDir(PathBuf),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    /// What the test did or was told at this moment.
    Mark(u64),
}

/// What happens below a folder while it lives.
#[derive(Debug)]
pub(crate) struct Recording {
    root: PathBuf,
    ops: Arc<Mutex<Vec<Op>>>,
}

type Recorder = (PathBuf, Arc<Mutex<Vec<Op>>>);

/// The folders that are recorded at the moment, each by one test.
static RECORDERS: Mutex<Vec<Recorder>> = Mutex::new(Vec::new());

impl Recording {
    pub(crate) fn start(root: &Path) -> Self {
        let ops = Arc::default();
        let recorder = (root.to_owned(), Arc::clone(&ops));
        RECORDERS.lock().unwrap_or_else(PoisonError::into_inner).push(recorder);
        Self { root: root.to_owned(), ops }
    }

    pub(crate) fn mark(&self, mark: u64) {
        push(&self.ops, Op::Mark(mark));
    }

    /// What happened so far.
    pub(crate) fn ops(&self) -> Vec<Op> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut recorders = RECORDERS.lock().unwrap_or_else(PoisonError::into_inner);
        recorders.retain(|(root, _)| *root != self.root);
    }
}

fn push(ops: &Mutex<Vec<Op>>, op: Op) {
    let mut ops = ops.lock().unwrap_or_else(PoisonError::into_inner);
    match (ops.last_mut(), op) {
        (Some(Op::Write(last, bytes)), Op::Write(path, more)) if *last == path => {
            bytes.extend_from_slice(&more);
        }
        (_, op) => ops.push(op),
    }
}

/// Notes what was done to `path` if its folder is recorded.
fn note(path: &Path, op: impl FnOnce(&dyn Fn(&Path) -> PathBuf) -> Op) {
    let recorders = RECORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((root, ops)) = recorders.iter().find(|(root, _)| path.starts_with(root)) else {
        return;
    };
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    push(ops, op(&relative));
}

pub(crate) fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    fs::create_dir(path)?;
    note(path, |relative| Op::MakeDir(relative(path)));
    Ok(())
}

pub(crate) fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    fs::hard_link(from, to)?;
    note(to, |relative| Op::Link(relative(from), relative(to)));
    Ok(())
}

pub(crate) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    fs::rename(from, to)?;
    note(to, |relative| Op::Rename(relative(from), relative(to)));
    Ok(())
}

pub(crate) fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    fs::remove_file(path)?;
    note(path, |relative| Op::Remove(relative(path)));
    Ok(())
}

/// A file that is written at its end only.
#[derive(Debug)]
pub(crate) struct File {
    file: fs::File,
    path: PathBuf,
}

impl File {
    /// A folder, to be synced.
    pub(crate) fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { file: fs::File::open(path.as_ref())?, path: path.as_ref().to_owned() })
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        // Before it is done: what others write meanwhile may not be in it.
        let path = &self.path;
        let dir = path.is_dir();
        note(path, |relative| {
            let path = relative(path);
            if dir { Op::SyncDir(path) } else { Op::Sync(path) }
        });
        self.file.sync_all()
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    pub(crate) fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        note(&self.path, |relative| Op::SetLen(relative(&self.path), length));
        Ok(())
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&self.file).write(bytes)?;
        let bytes = bytes[..written].to_vec();
        note(&self.path, |relative| Op::Write(relative(&self.path), bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.file).flush()
    }
}

#[derive(Debug)]
pub(crate) struct OpenOptions {
    options: fs::OpenOptions,
    empties: bool,
}

impl OpenOptions {
    pub(crate) fn new() -> Self {
        Self { options: fs::OpenOptions::new(), empties: false }
    }

    pub(crate) fn write(&mut self, write: bool) -> &mut Self {
        self.options.write(write);
        self
    }

    pub(crate) fn append(&mut self, append: bool) -> &mut Self {
        self.options.append(append);
        self
    }

    pub(crate) fn create(&mut self, create: bool) -> &mut Self {
        self.options.create(create);
        self
    }

    pub(crate) fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.options.create_new(create_new);
        self.empties |= create_new;
        self
    }

    pub(crate) fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.options.truncate(truncate);
        self.empties |= truncate;
        self
    }

    pub(crate) fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let file = self.options.open(path)?;
        if self.empties {
            note(path, |relative| Op::Create(relative(path)));
        }
        Ok(File { file, path: path.to_owned() })
    }
}
