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

/// Which changes of names reach the disk, in their order.
type Kept = Vec<bool>;
/// What the disk has of some files, by their number.
type Bytes = BTreeMap<usize, Vec<u8>>;

/// Changes of names up to which every subset of them is a state.
const NAMES_IN_EVERY_SUBSET_MAX: usize = 4;
/// Files with unsynced bytes up to which every mix of their states is one.
const FILES_IN_EVERY_MIX_MAX: usize = 2;

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

    /// More than can be lost in every way.
    pub(super) fn has_many_unsynced_names(&self) -> bool {
        self.pending.len() > NAMES_IN_EVERY_SUBSET_MAX
    }

    /// What the kernel shows: what a killed process leaves.
    pub(super) fn shown(&self) -> Tree {
        self.tree(&vec![true; self.pending.len()], &Bytes::new())
    }

    /// The states after a power loss, each with its name.
    pub(super) fn states(&self) -> Vec<(String, Tree)> {
        let all = vec![true; self.pending.len()];
        let mut states = Vec::new();
        for kept in self.names() {
            let what = self.spelt(&kept);
            states.push((format!("{what} and all bytes"), self.tree(&kept, &Bytes::new())));
            states.push((format!("{what} and no bytes"), self.tree(&kept, &self.synced())));
        }
        let mixes = self.mixes().into_iter();
        states.extend(mixes.map(|(what, bytes)| (what, self.tree(&all, &bytes))));
        states
    }

    /// The states in which nothing, or one name that is not synced, has not reached the disk.
    pub(super) fn states_without(&self) -> Vec<(String, Tree)> {
        let count = self.pending.len();
        let none = vec![false; count];
        let mut states =
            vec![("no names and no bytes".to_owned(), self.tree(&none, &self.synced()))];
        let one_less = (0..count).map(|one| (0..count).map(|at| at != one).collect::<Kept>());
        for kept in one_less.chain([none]) {
            states.push((self.spelt(&kept), self.tree(&kept, &Bytes::new())));
        }
        states
    }

    /// Which changes of names may be on the disk: every subset where they are few.
    fn names(&self) -> Vec<Kept> {
        let count = self.pending.len();
        let those = |is_kept: &dyn Fn(usize) -> bool| (0..count).map(is_kept).collect::<Kept>();
        if count <= NAMES_IN_EVERY_SUBSET_MAX {
            return (0..1 << count).map(|bits: usize| those(&|at| bits >> at & 1 == 1)).collect();
        }
        let first = (0..=count).map(|first| those(&|at| at < first));
        let one = (0..count).map(|one| those(&|at| at == one));
        let all_but = (0..count).map(|one| those(&|at| at != one));
        first.chain(one).chain(all_but).collect()
    }

    fn spelt(&self, kept: &Kept) -> String {
        let changes = |is: bool| {
            let changes = self.pending.iter().zip(kept).filter(move |(_, kept)| **kept == is);
            changes.map(|(change, _)| change).collect::<Vec<_>>()
        };
        match (changes(true), changes(false)) {
            (_, without) if without.is_empty() => "all names".to_owned(),
            (with, _) if with.is_empty() => "no names".to_owned(),
            (with, without) if with.len() < without.len() => format!("only {with:?}"),
            (_, without) => format!("all but {without:?}"),
        }
    }

    /// The files as they were when they were last synced.
    fn synced(&self) -> Bytes {
        let inodes = self.inodes.iter().enumerate();
        inodes.map(|(number, inode)| (number, inode.durable.clone())).collect()
    }

    /// What the disk may have of the files that are not synced: every mix of their states where they are
    /// few, and else each state of each file beside the whole others.
    fn mixes(&self) -> Vec<(String, Bytes)> {
        let files = self.inodes.iter().enumerate().filter(|&(number, inode)| {
            let is_named = self.shown.values().any(|node| *node == Node::File(number));
            is_named && inode.durable != inode.shown
        });
        let files: Vec<_> = files.map(|(number, inode)| (number, inode.states())).collect();
        let whole = (String::from("all names"), Bytes::new());
        let with = |(what, bytes): &(String, Bytes), number, states: &[(&str, Vec<u8>)]| {
            let state = |(how, of_it): &(&str, Vec<u8>)| {
                let mut bytes = bytes.clone();
                bytes.insert(number, of_it.clone());
                (format!("{what}, file {number} {how}"), bytes)
            };
            states.iter().map(state).collect::<Vec<_>>()
        };
        if files.len() > FILES_IN_EVERY_MIX_MAX {
            let each = files.iter().flat_map(|(number, states)| with(&whole, *number, states));
            return each.collect();
        }
        files.iter().fold(vec![whole], |mixes, (number, states)| {
            mixes.iter().flat_map(|mix| with(mix, *number, states)).collect()
        })
    }

    /// The disk with some names, and with all bytes of the files that `bytes` does not name.
    fn tree(&self, kept: &Kept, bytes: &Bytes) -> Tree {
        let mut names = self.durable.clone();
        for (change, _) in self.pending.iter().zip(kept).filter(|(_, kept)| **kept) {
            change.apply(&mut names);
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
                    let of_it = bytes.get(&inode).unwrap_or(&self.inodes[inode].shown);
                    tree.files.insert(path, of_it.clone());
                }
            }
        }
        tree
    }
}

impl Inode {
    /// What the disk may have of it: all, what was synced, and states between the two.
    fn states(&self) -> Vec<(&'static str, Vec<u8>)> {
        let (durable, shown) = (self.durable.len(), self.shown.len());
        let mut states = vec![("whole", self.shown.clone()), ("as synced", self.durable.clone())];
        if shown <= durable || !self.shown.starts_with(&self.durable) {
            return states;
        }
        let mut zeros = self.durable.clone();
        zeros.resize(shown, 0);
        let mut hole = self.shown.clone();
        hole[durable..durable + (shown - durable) / 2].fill(0);
        states.extend([
            ("with a hole", hole),
            ("half written", self.shown[..durable + (shown - durable) / 2].to_vec()),
            ("short of a byte", self.shown[..shown - 1].to_vec()),
            ("in zeros", zeros),
        ]);
        states
    }
}
