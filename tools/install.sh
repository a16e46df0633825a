#!/usr/bin/env bash
# Makes the virtual environment that `make` works in; run by `make install`, which sets the variables:
#   PYTHON TORCH VENV WHEELS CORES   as `make help` describes them
#   LOCK                             the lock file of the stack to install
#   PYTHON_GIVEN TORCH_GIVEN         the same value if the user named it, else empty
# Started again after an interruption, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '==> %s\n' "$*"; }
fail() { printf 'install: %s\n' "$@" >&2; exit 1; }

py=$VENV/bin/python
cpu_index=https://download.pytorch.org/whl/cpu
pin=$(grep -E '^(onedl-)?mmcv==' "$LOCK")   # onedl-mmcv==2.3.6
package=${pin%%==*} mmcv=${pin#*==}
file=${package//-/_}-$mmcv                  # what its wheel's name begins with
other=$([[ $package == mmcv ]] && echo onedl_mmcv || echo mmcv)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=1

has_torch() { "$1" -c 'import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)' 2>/dev/null; }
has_mmcv() { "$py" -c "import mmcv, mmcv.ops; assert mmcv.__version__ == '$mmcv'" 2>/dev/null; }
minor() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
pip() { "$py" -m pip "$@"; }
answers() { "$py" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=10)' "$1" 2>/dev/null; }

check_python() {
    command -v "$PYTHON" >/dev/null ||
        fail "there is no '$PYTHON' here. Name a Python 3.10, 3.11 or 3.12: make install PYTHON=python3.11"
    case $(minor "$PYTHON") in
        3.10 | 3.11 | 3.12) ;;
        *) fail "$PYTHON is Python $(minor "$PYTHON"). Python 3.10, 3.11 or 3.12 is needed: make install PYTHON=python3.11" ;;
    esac
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$PYTHON cannot make virtual environments. On Debian and Ubuntu: apt install python$(minor "$PYTHON")-venv"
}

# mmcv's operators are C++; said before anything is downloaded, unless a wheel is there already.
check_compiler() {
    local python=$1 missing=()
    ! compgen -G "$WHEELS/cp$(minor "$python" | tr -d .)-*/$file-*.whl" >/dev/null || return 0
    command -v "${CXX:-c++}" >/dev/null || missing+=("a C++ compiler (apt install g++)")
    "$python" -c 'import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
        missing+=("the Python headers (apt install python$(minor "$python")-dev)")
    (( ${#missing[@]} == 0 )) || fail "to build mmcv's operators, this machine lacks:" "${missing[@]/#/  }"
}

make_venv() {
    local site flags=()
    if [[ -x $py ]] && "$py" -m pip --version >/dev/null 2>&1; then
        [[ -z $PYTHON_GIVEN || $(minor "$PYTHON") == "$(minor "$py")" ]] ||
            fail "$VENV has Python $(minor "$py"), $PYTHON is $(minor "$PYTHON"): make distclean first, or name another VENV"
        return
    fi
    [[ -f $VENV/pyvenv.cfg || -z $(ls -A "$VENV" 2>/dev/null) ]] ||
        fail "$VENV is there and is no virtual environment: move it away, or name another VENV"
    say "making $VENV with Python $(minor "$PYTHON")"
    if [[ -z $TORCH_GIVEN ]] && has_torch "$PYTHON"; then
        flags=(--system-site-packages)
    fi
    "$PYTHON" -m venv --clear ${flags[@]+"${flags[@]}"} "$VENV"
    # --system-site-packages looks past a virtual environment to the Python under it
    if (( ${#flags[@]} )) && ! has_torch "$py"; then
        site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        "$PYTHON" -c 'import site; print("\n".join(site.getsitepackages()))' >"$site/parent-environment.pth"
    fi
}

install_packages() {
    local log=$VENV/packages.log
    say "installing the packages of $LOCK; the log is $log"
    # pip's remarks stay in the log, for instance one for every package on places that its settings name
    if ! pip install --progress-bar off --no-deps --no-build-isolation -r <(grep -vxF "$pin" "$LOCK") 2>&1 |
            tee "$log" | collected "$(grep -vxF "$pin" "$LOCK" | grep -c '^[a-z]')"; then
        tail -n 30 "$log" >&2
        fail "installing the packages failed; all of the log is in $log"
    fi
}

install_torch() {
    local index=()
    if [[ -z $TORCH_GIVEN ]] && has_torch "$py"; then
        say "torch $("$py" -c 'import torch; print(torch.__version__)') is there"
        return
    fi
    # PyPI's torch for Linux brings several GB of CUDA along; without a GPU the CPU build is preferred
    if [[ $(uname -s) == Linux ]] && ! command -v nvidia-smi >/dev/null && answers "$cpu_index/torch/"; then
        index=(--extra-index-url "$cpu_index")
    fi
    say "installing $TORCH"
    pip install -c "$LOCK" ${index[@]+"${index[@]}"} "$TORCH"
}

# mmdet's pretrained backbones (torchvision://resnet50) and some operators need the torchvision of the installed torch:
# 0.28 for torch 2.13, built for the same device. Without one the rest works.
install_torchvision() {
    local full fit device index=() works
    works='import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)'
    ! "$py" -c "$works" 2>/dev/null || return 0
    read -r full fit device < <("$py" -c '
import re, torch
found = re.match(r"2\.(\d+)\.(\d+)", torch.__version__)
fit = f"torchvision>=0.{int(found[1]) + 15},<=0.{int(found[1]) + 15}.{found[2]}" if found else "none"
print(torch.__version__, fit, torch.__version__.partition("+")[2])')
    if [[ -n $device ]] && answers "https://download.pytorch.org/whl/$device/torchvision/"; then
        index=(--extra-index-url "https://download.pytorch.org/whl/$device")
    fi
    say "installing the torchvision of torch $full"
    if [[ $fit == none ]] ||
            ! pip install -qq --no-deps --upgrade --force-reinstall ${index[@]+"${index[@]}"} "$fit" ||
            ! "$py" -c "$works" 2>/dev/null; then
        pip uninstall -qq --yes torchvision || true
        say "warning: no torchvision was found that works with torch $full. Configs of mmdet with torchvision://" \
            "weights need one: install it from where torch came from"
    fi
}

# pip's lines in, one line now and then out; $1: how many packages there are
collected() {
    local said=$SECONDS line done=0
    while IFS= read -r line; do
        case $line in
            # ignored are those of another Python
            'Collecting '* | 'Processing '* | 'Requirement already'* | 'Ignoring '*) done=$(( done + 1 )) ;;
            'Installing collected packages'*) printf '    all are there; unpacking them\n' ;;
        esac
        (( SECONDS - said >= 20 && done < $1 )) || continue
        said=$SECONDS
        printf '    %d of %d packages\n' "$done" "$1"
    done
}

# ninja's "[n/m]" lines in, one line now and then out
progress() {
    local begin=$SECONDS said=$SECONDS line done all
    while IFS= read -r line; do
        [[ $line =~ ^[[:space:]]*\[([0-9]+)/([0-9]+)\] ]] && (( SECONDS - said >= 20 )) || continue
        said=$SECONDS done=${BASH_REMATCH[1]} all=${BASH_REMATCH[2]}
        printf '    %d of %d files, about %d s left\n' "$done" "$all" $(( (SECONDS - begin) * (all - done) / done ))
    done
}

# Leaves the wheel in $1, whole or not at all.
build_mmcv() {
    local cache=$1 work wheel names
    check_compiler "$py"
    "$py" -c '
import torch
from torch.utils.cpp_extension import CUDA_HOME
raise SystemExit(torch.cuda.is_available() and CUDA_HOME is None)' ||
        fail 'torch sees a GPU, but there is no nvcc to build mmcv for it. Set CUDA_HOME to the CUDA toolkit,' \
            "put a ready-built wheel into $cache, or set CUDA_VISIBLE_DEVICES= to stay on the CPU."
    work=$(mktemp -d "$cache/.build-XXXXXX")
    # expanded now: `work` is gone when the script ends
    trap "rm -rf '$work'" EXIT
    say "building $package $mmcv with $CORES jobs: about 10 minutes on two cores, once; the log is $cache/$package.log"
    # not through pip's own cache, which does not know for which torch it keeps a wheel
    if ! CFLAGS=-g0 CXXFLAGS=-g0 MAX_JOBS=$CORES pip wheel -v --no-cache-dir --no-deps --no-build-isolation \
            --no-binary "$package" --wheel-dir "$work" "$pin" 2>&1 | tee "$cache/$package.log" | progress; then
        tail -n 30 "$cache/$package.log" >&2
        fail "building mmcv failed; all of the log is in $cache/$package.log"
    fi
    wheel=$(ls "$work/$file"-*.whl)
    # not into `grep -q`, which closes the pipe at the first match: with pipefail that counts as a failure
    names=$("$py" -m zipfile -l "$wheel")
    [[ $names == *mmcv/_ext.* ]] || fail "mmcv was built without its operators; see $cache/$package.log"
    mv "$wheel" "$cache/"
}

install_mmcv() {
    local tag cache wheel mark=$VENV/.mmcv
    tag=$("$py" -c '
import sys, torch
print("cp%d%d-torch%s-%s" % (*sys.version_info[:2], torch.__version__, "cuda" if torch.cuda.is_available() else "cpu"))')
    if [[ ! -f $mark || $(<"$mark") == "$tag" ]] && has_mmcv; then
        return
    fi
    cache=$WHEELS/$tag
    mkdir -p "$cache"
    if command -v flock >/dev/null; then
        exec 9>"$cache/.lock"
        flock --nonblock 9 || { say "waiting for another build of mmcv"; flock 9; }
    fi
    wheel=$(compgen -G "$cache/$file-*.whl" || true)
    if [[ -z $wheel ]]; then
        build_mmcv "$cache"
        wheel=$(compgen -G "$cache/$file-*.whl")
    fi
    exec 9>&-
    say "installing $wheel"
    pip install --quiet --no-index --no-deps --force-reinstall "$wheel"
    has_mmcv || { "$py" -c 'import mmcv.ops' || true; fail "mmcv does not load; remove $wheel and try again"; }
    printf '%s\n' "$tag" >"$mark"
}

trap 'exit 130' INT TERM
! compgen -G "$VENV/lib/python*/site-packages/$other-*.dist-info" >/dev/null ||
    fail "$VENV has the other stack ($other), which has modules of the same names: name another VENV"
rm -f "$VENV"/.mmkd_graph-*
[[ -x $py && -z $PYTHON_GIVEN ]] || check_python
if ! { [[ -x $py ]] && has_mmcv; }; then
    check_compiler "$([[ -x $py ]] && echo "$py" || echo "$PYTHON")"
fi
make_venv
pip install -qq --no-deps $(grep -E '^(setuptools|wheel)==' "$LOCK")
install_packages
install_torch
install_torchvision
install_mmcv
pip install --quiet --no-deps --no-build-isolation --use-pep517 --editable .
"$py" -c '
import mmcv, mmcv.ops, mmdet, mmengine, sys, torch
import yapf  # writes a cache at its first import, which is not safe in several processes together
print("==> ready: Python %d.%d, torch %s (%s), mmengine %s, mmcv %s, mmdet %s" % (
    *sys.version_info[:2], torch.__version__, "CUDA" if torch.cuda.is_available() else "CPU",
    mmengine.__version__, mmcv.__version__, mmdet.__version__))'
