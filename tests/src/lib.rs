//! Whole-program tests of `hyc`; see the files beside this folder.
