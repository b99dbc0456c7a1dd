//! The files and directories of an image, before they have places.

use std::collections::BTreeMap;

/// Index of a node; the root is 0.
pub(super) type NodeId = usize;

/// A file or directory.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) mode: u32,
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind {
    Directory(BTreeMap<String, NodeId>),
    /// The number of the file's contents.
    File(usize),
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) const ROOT: NodeId = 0;

    pub(super) fn new() -> Self {
        Self { nodes: vec![Node { name: String::new(), mode: 0o755, kind: Kind::Directory(BTreeMap::new()) }] }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let children = match &self.nodes[id].kind {
            Kind::Directory(children) => Some(children),
            Kind::File(_) => None,
        };
        children.into_iter().flat_map(|children| children.values().copied())
    }

    pub(super) fn is_directory(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].kind, Kind::Directory(_))
    }

    /// Makes the directories of `names`; `None` if one of them is a file.
    pub(super) fn directory(&mut self, names: &[&str]) -> Option<NodeId> {
        let mut at = Self::ROOT;
        for name in names {
            at = match self.child(at, name) {
                Some(id) if self.is_directory(id) => id,
                Some(_) => return None,
                None => self.add(at, name, 0o755, Kind::Directory(BTreeMap::new())),
            };
        }
        Some(at)
    }

    /// Adds a file; `false` if the path is taken or one of its directories is a file.
    pub(super) fn file(&mut self, names: &[&str], mode: u32, content: usize) -> bool {
        let Some((name, directories)) = names.split_last() else { return false };
        let Some(directory) = self.directory(directories) else { return false };
        if self.child(directory, name).is_some() {
            return false;
        }
        self.add(directory, name, mode, Kind::File(content));
        true
    }

    fn child(&self, id: NodeId, name: &str) -> Option<NodeId> {
        match &self.nodes[id].kind {
            Kind::Directory(children) => children.get(name).copied(),
            Kind::File(_) => None,
        }
    }

    fn add(&mut self, parent: NodeId, name: &str, mode: u32, kind: Kind) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(Node { name: name.to_owned(), mode, kind });
        if let Kind::Directory(children) = &mut self.nodes[parent].kind {
            children.insert(name.to_owned(), id);
        }
        id
    }
}
