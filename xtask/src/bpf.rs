//! Rebuilds the kernel object from `ebpf/`.
use anyhow::Result;
pub(crate) fn build() -> Result<()> {
    anyhow::bail!("not yet")
}
