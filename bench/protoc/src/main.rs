//! Prints where the protocol buffer compiler is, and its include folder, as lines for a shell's `eval`.
//!
//! The etcd client's build script wants a `protoc`. One comes from the package registry with this crate, so that a bare
//! machine needs none. This is not part of the product.

use std::io::Error;

fn main() -> Result<(), Error> {
    let compiler = protoc_bin_vendored::protoc_bin_path().map_err(Error::other)?;
    let include = protoc_bin_vendored::include_path().map_err(Error::other)?;
    println!("export PROTOC='{}' PROTOC_INCLUDE='{}'", compiler.display(), include.display());
    Ok(())
}
