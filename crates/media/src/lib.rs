//! Byte formats that several crates need: GPT, ISO9660, FAT, cpio, PE. Bytes in, bytes out.
