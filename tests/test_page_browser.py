"""A study's page in headless Chromium, driven with selenium: `make test-page`. Skipped if either is missing."""

import os
import shutil

import pytest

from studies.report.page import write_page
from tests.studies.report.sample_page import COPIES, FIGURES, OTHERS, PAIRS, sample_page

webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed (see requirements-dev.txt)')
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason='chromium or chromedriver is not installed (Debian: chromium, chromium-driver)'
)
WIDTHS = [360, 1280]

# Script that finds elements wider than the window, except inside scrolling elements.
BEYOND = """
return [...document.querySelectorAll('body *')].filter((element) => {
  const box = element.getBoundingClientRect();
  const scrolls = element.parentElement.closest('pre');
  return !scrolls && box.width > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5) && !element.matches('.skip');
}).map((element) => element.outerHTML.slice(0, 120));
"""
OPEN_ALL = "for (const details of document.querySelectorAll('details')) details.open = true;"


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    profile = tmp_path_factory.mktemp('chromium')
    for argument in ('--headless=new', '--disable-dev-shm-usage', '--disable-gpu', f'--user-data-dir={profile}'):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument('--no-sandbox')  # as root, Chromium runs only without sandbox
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'report.html'
    write_page(path, sample_page(hostile=True))
    return path.as_uri()


def visit(browser, address, width=1280):
    size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': width < 500}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
    browser.get('about:blank')
    browser.get(address)


def visible(browser, selector):
    return sum(element.is_displayed() for element in browser.find_elements(By.CSS_SELECTOR, selector))


def test_every_image_loads_and_the_browser_logs_no_error(browser, address):
    browser.get_log('browser')
    visit(browser, address)
    browser.execute_script(OPEN_ALL)
    widths = browser.execute_script('return [...document.images].map((image) => image.complete && image.naturalWidth)')
    assert len(widths) == FIGURES + 2 * PAIRS + 3 * (COPIES + OTHERS)
    assert all(width and width > 0 for width in widths)
    assert browser.get_log('browser') == []
    assert browser.title != 'taken'


@pytest.mark.parametrize('width', WIDTHS)
def test_no_element_is_wider_than_the_window(browser, address, width):
    visit(browser, address, width)
    browser.execute_script(OPEN_ALL)
    assert browser.execute_script('return innerWidth') == width
    assert browser.execute_script('return document.documentElement.scrollWidth') <= width
    assert browser.execute_script(BEYOND) == []


def test_buttons_filter_the_galleries(browser, address):
    visit(browser, address)
    browser.execute_script(OPEN_ALL)
    counts = {'all': (COPIES, OTHERS), 'copies': (COPIES, 0), 'others': (0, OTHERS)}
    for kind in ('copies', 'others', 'all'):
        button = browser.find_element(By.CSS_SELECTOR, f'button[data-show={kind}]')
        button.send_keys(Keys.ENTER)  # pressed with the keyboard
        WebDriverWait(browser, 20).until(lambda _: button.get_attribute('aria-pressed') == 'true')  # noqa: B023 - called in this round only
        assert (visible(browser, '.item.copy'), visible(browser, '.item.other')) == counts[kind]
        assert int(button.text.split()[-1]) == sum(counts[kind])
        pressed = browser.find_elements(By.CSS_SELECTOR, 'button[aria-pressed=true]')
        assert [b.get_attribute('data-show') for b in pressed] == [kind]


def test_copies_are_labelled_and_framed(browser, address):
    visit(browser, address)
    browser.execute_script(OPEN_ALL)
    for item in browser.find_elements(By.CSS_SELECTOR, '.item'):
        is_copy = 'copy' in item.get_attribute('class').split()
        assert ('Not a copy' in item.text) != is_copy
        assert item.value_of_css_property('border-top-style') == ('solid' if is_copy else 'dashed')


def test_a_size_in_a_table_links_to_its_training_run(browser, address):
    visit(browser, address)
    assert visible(browser, '#point-2 .gallery') == 0
    browser.find_element(By.CSS_SELECTOR, 'a[href="#point-2"]').send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda browser: visible(browser, '#point-2 .gallery') == 1)


def test_one_button_opens_and_closes_all_training_runs(browser, address):
    visit(browser, address)
    assert visible(browser, '.point .gallery') == 0
    button = browser.find_element(By.ID, 'fold')
    button.click()
    assert visible(browser, '.point .gallery') == 2
    button.click()
    assert visible(browser, '.point .gallery') == 0


def test_text_has_enough_contrast_in_the_light_and_the_dark_scheme(browser, address):
    contrasts = set()
    for scheme in ('light', 'dark'):
        media = {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]}
        browser.execute_cdp_cmd('Emulation.setEmulatedMedia', media)
        visit(browser, address)
        body = browser.find_element(By.TAG_NAME, 'body')
        paper = luminance(body.value_of_css_property('background-color'))
        for selector in ('body', '.lead', 'a[href="#point-2"]', '.copy .verdict strong', '.warning strong'):
            ink = luminance(browser.find_element(By.CSS_SELECTOR, selector).value_of_css_property('color'))
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, (
                scheme,
                selector,
            )  # required by WCAG 2, level AA
        contrasts.add(paper > 0.5)
    assert contrasts == {True, False}


def luminance(color):
    """Relative luminance of 'rgba(r, g, b, a)', as WCAG 2 defines it."""
    channels = [int(part) / 255 for part in color[color.index('(') + 1 : -1].split(',')[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
