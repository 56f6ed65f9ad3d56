//! What is surely on a disk, what only the kernel knows, and the states between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::disk::recorded::Op;

/// Everything below a folder: files with their bytes, and folders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
    pub(super) dirs: BTreeSet<PathBuf>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.gather(root, Path::new(""));
        tree
    }

    fn gather(&mut self, root: &Path, below: &Path) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            if root.join(&path).is_dir() {
                self.gather(root, &path);
                self.dirs.insert(path);
            } else {
                let bytes = fs::read(root.join(&path)).unwrap();
                self.files.insert(path, bytes);
            }
        }
    }

    pub(super) fn write(&self, root: &Path) {
        for dir in &self.dirs {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, bytes) in &self.files {
            fs::write(root.join(path), bytes).unwrap();
        }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// A file's bytes: those on the disk, and those that the kernel shows.
#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    shown: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir,
}

/// A change of names that is not on the disk yet; all of it happens or none.
#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

type Names = BTreeMap<PathBuf, Node>;

/// Which changes of names reach the disk, by their number.
type Kept = Box<dyn Fn(usize) -> bool>;

/// A disk under a kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    inodes: Vec<Inode>,
    durable: Names,
    shown: Names,
    pending: Vec<NameChange>,
}

impl NameChange {
    fn dir(&self) -> &Path {
        let (Self::Add(path, _) | Self::Remove(path) | Self::Rename(_, path, _)) = self;
        path.parent().unwrap()
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Disk {
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(path) => {
                if let Some(&Node::File(inode)) = self.shown.get(path) {
                    self.inodes[inode].shown.clear();
                } else {
                    self.inodes.push(Inode::default());
                    self.change(NameChange::Add(path.clone(), Node::File(self.inodes.len() - 1)));
                }
            }
            Op::Write(path, bytes) => self.inode(path).shown.extend_from_slice(bytes),
            Op::SetLen(path, length) => {
                let length = usize::try_from(*length).unwrap();
                self.inode(path).shown.resize(length, 0);
            }
            Op::Sync(path) => {
                let inode = self.inode(path);
                inode.durable = inode.shown.clone();
            }
            Op::SyncDir(dir) => {
                for change in self.pending.extract_if(.., |change| change.dir() == dir) {
                    change.apply(&mut self.durable);
                }
            }
            Op::MakeDir(path) => self.change(NameChange::Add(path.clone(), Node::Dir)),
            Op::Link(from, to) => {
                let node = self.shown[from];
                self.change(NameChange::Add(to.clone(), node));
            }
            Op::Rename(from, to) => {
                let node = self.shown[from];
                self.change(NameChange::Rename(from.clone(), to.clone(), node));
            }
            Op::Remove(path) => self.change(NameChange::Remove(path.clone())),
            Op::Mark(_) => {}
        }
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        let Some(&Node::File(inode)) = self.shown.get(path) else {
            panic!("{} is written to and was never made", path.display());
        };
        &mut self.inodes[inode]
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.shown);
        self.pending.push(change);
    }

    pub(super) fn has_unsynced_names(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What the kernel shows: what a killed process leaves.
    pub(super) fn shown(&self) -> Tree {
        self.tree(|_| true, |inode| inode.shown.clone())
    }

    /// The states after a power loss, each with its name.
    pub(super) fn states(&self) -> Vec<(String, Tree)> {
        let all = self.pending.len();
        let mut names: Vec<(String, Kept)> = vec![
            ("all names".to_owned(), Box::new(|_| true)),
            ("no names".to_owned(), Box::new(|_| false)),
        ];
        for one in 0..all {
            let change = &self.pending[one];
            names.push((format!("only {change:?}"), Box::new(move |at| at == one)));
            names.push((format!("all but {change:?}"), Box::new(move |at| at != one)));
        }
        let mut states = Vec::new();
        for (name, kept) in &names {
            let shown = self.tree(kept, |inode| inode.shown.clone());
            let durable = self.tree(kept, |inode| inode.durable.clone());
            states.push((format!("{name} and all bytes"), shown));
            states.push((format!("{name} and no bytes"), durable));
        }
        for (number, inode) in self.inodes.iter().enumerate() {
            for (what, bytes) in inode.partly() {
                let tree = self.tree(
                    |_| true,
                    |other| {
                        if std::ptr::eq(other, inode) { bytes.clone() } else { other.shown.clone() }
                    },
                );
                states.push((format!("file {number} {what}"), tree));
            }
        }
        states
    }

    /// The states in which nothing, or one name that is not synced, has not reached the disk.
    pub(super) fn states_without(&self) -> Vec<(String, Tree)> {
        let wanted = |(what, _): &(String, Tree)| {
            (what.starts_with("all but") && what.ends_with("all bytes"))
                || what.starts_with("no names")
        };
        self.states().into_iter().filter(wanted).collect()
    }

    fn tree(&self, kept: impl Fn(usize) -> bool, bytes: impl Fn(&Inode) -> Vec<u8>) -> Tree {
        let mut names = self.durable.clone();
        for (at, change) in self.pending.iter().enumerate() {
            if kept(at) {
                change.apply(&mut names);
            }
        }
        let mut tree = Tree::default();
        // Names come after those of their folders; what is in a folder that is gone is gone.
        for (path, node) in names {
            let dir = path.parent().unwrap();
            if !(dir.as_os_str().is_empty() || tree.dirs.contains(dir)) {
                continue;
            }
            match node {
                Node::Dir => {
                    tree.dirs.insert(path);
                }
                Node::File(inode) => {
                    tree.files.insert(path, bytes(&self.inodes[inode]));
                }
            }
        }
        tree
    }
}

impl Inode {
    /// Its states between nothing and all of what is not synced.
    fn partly(&self) -> Vec<(&'static str, Vec<u8>)> {
        let (durable, shown) = (self.durable.len(), self.shown.len());
        if shown <= durable || !self.shown.starts_with(&self.durable) {
            return Vec::new();
        }
        let mut zeros = self.durable.clone();
        zeros.resize(shown, 0);
        let mut hole = self.shown.clone();
        hole[durable..durable + (shown - durable) / 2].fill(0);
        vec![
            ("with a hole", hole),
            ("half written", self.shown[..durable + (shown - durable) / 2].to_vec()),
            ("short of a byte", self.shown[..shown - 1].to_vec()),
            ("in zeros", zeros),
        ]
    }
}
