#!/bin/sh
# cargo as maturin calls it for the tests' wheel. Compiled alone, the wheel's crate would ask its dependencies for fewer features than the programs
# do, and cargo would compile those a second time. So the compilation becomes the one of `make build`, which is done by then; the variables by which
# maturin names the interpreter are left out, since a change of them counts as a change of PyO3 (abi3: any interpreter will do).
case " $* " in
    *" rustc "*)
        exec env -u PYO3_PYTHON -u PYO3_ENVIRONMENT_SIGNATURE -u PYTHON_SYS_EXECUTABLE -u PYO3_CONFIG_FILE \
            cargo build --release --locked -p anabranch -p anabranch-lambda -p anabranch-python \
            --message-format json-render-diagnostics
        ;;
    *) exec cargo "$@" ;;
esac
