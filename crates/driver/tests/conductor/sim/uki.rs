//! A unified kernel image that is well-formed and does nothing.

use media::pe::stub::stub;
use media::pe::{Sections, build};

pub(crate) fn image() -> Vec<u8> {
    let sections = Sections {
        os_release: "ID=ferric\n",
        uname: "6.1.0",
        cmdline: "console=ttyS0",
        linux: &[b'M', b'Z', 1, 2, 3],
        initrd: &[7; 5000],
    };
    build(&stub(7), &sections).unwrap()
}
