//! One target under libFuzzer: `ANABRANCH_FUZZ_TARGET=history fuzz corpus-folder…`. `make fuzz` builds and runs it.
#![no_main]

use std::alloc::System;
use std::sync::LazyLock;

use anabranch_fuzz::{Target, find};
use cap::Cap;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("ANABRANCH_FUZZ_TARGET").unwrap_or_default();
    let target = find(&name).unwrap_or_else(|| panic!("ANABRANCH_FUZZ_TARGET={name:?} names no target"));
    // What stays (models, tables) is made before heap is measured.
    (target.run)(b"");
    target
});

fuzz_target!(
    init: {
        // libFuzzer's hook aborts inside a panic; decoders may catch one of a library and make it an error.
        drop(std::panic::take_hook());
        std::panic::set_hook(Box::new(|info| {
            let _ = HEAP.set_limit(usize::MAX);
            eprintln!("{info}");
        }));
    },
    |bytes: &[u8]| {
        let target = *TARGET;
        let _ = HEAP.set_limit(HEAP.allocated().saturating_add(target.heap_bytes_max));
        (target.run)(bytes);
        let _ = HEAP.set_limit(usize::MAX);
    }
);
